"""RelP and exact patching, held against each other, against plain torch and against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.patching import cells
from qvit_deploy.patching.components import Component, find_components
from qvit_deploy.patching.exact import patch_effects, rows_at_once
from qvit_deploy.patching.relp import Attribution, Direction, attribute
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.tasks.classify import CLASSIFY
from tests.support.graphs.relevance_graphs import Builder

Tensor = torch.Tensor
METRIC = CLASSIFY.parse_metric("logit-diff:0,1")
LINEAR_RULES = ("gradient", "relp", "relp-ah", "attnlrp")
"""`deep-taylor` redistributes over positive contributions and is no gradient of a linear network either."""


def _attribute(graph: Graph, rules: str, pair: Tensor, direction: Direction = "denoising") -> Attribution:
    return _attribute_to(find_components(graph), graph, rules, pair, direction)


def _attribute_to(
    components: tuple[Component, ...], graph: Graph, rules: str, pair: Tensor, direction: Direction
) -> Attribution:
    rule_set = RULE_SETS[rules]
    executor = Executor(graph, overrides=rule_set.bind(graph, 1).overrides)
    return attribute(
        executor,
        rule_set,
        components,
        Examples.images(pair[:1]),
        Examples.images(pair[1:]),
        METRIC,
        CLASSIFY,
        direction,
    )


def _linear_network() -> tuple[Graph, tuple[Component, ...]]:
    b = Builder(3)
    x = b.linear(b.op("Reshape", "image", b.constant([0, 4, 6])), 6, 8, "embed", "x")
    branch = b.linear(b.linear(x, 8, 16, "fc1"), 16, 8, "fc2", "branch")
    out = b.op("Add", x, branch, name="out")
    logits = b.linear(b.op("ReduceMean", out, b.constant([1]), keepdims=0), 8, 3, "head", "logits")
    components = tuple(Component("residual", i, f"b{i}", t) for i, t in enumerate(("x", "branch", "out")))
    return b.graph(logits, (4, 2, 3)), components


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("rules", LINEAR_RULES)
def test_on_a_linear_network_every_rule_set_is_exact(rules: str, direction: Direction) -> None:
    graph, components = _linear_network()
    pair = torch.randn(2, 4, 2, 3)
    estimate = _attribute_to(components, graph, rules, pair, direction)
    exact = patch_effects(
        Executor(graph), components, Examples.images(pair[:1]), Examples.images(pair[1:]), METRIC, direction
    )
    for component in components:
        np.testing.assert_allclose(estimate.effects[component][0], exact[component], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_exact_effects_are_those_of_a_tap(small_vit: Graph, images: Tensor, direction: Direction) -> None:
    """One cell at a time, replaced by hand, in a fresh run each."""
    components = find_components(small_vit)
    clean, corrupt = images[:1], images[1:2]
    base, source = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    executor = Executor(small_vit)
    effects = patch_effects(
        executor, components, Examples.images(clean), Examples.images(corrupt), METRIC, direction, at_once=3
    )
    objective = METRIC(executor.run(Examples.images(clean)), executor.run(Examples.images(corrupt)))
    for component in components:
        new = executor.run(Examples.images(source), fetch=[component.tensor])[component.tensor]
        for cell in range(cells.count(component, new, 1)):

            def patch(value: Tensor, new: Tensor = new, cell: int = cell, kind: str = component.kind) -> Tensor:
                value = value.clone()
                value[:, cell] = new[:, cell]  # [1, tokens, channels], [1, heads, tokens, channels]
                return value

            change = objective(executor.run(Examples.images(base), {component.tensor: patch})) - objective(
                executor.run(Examples.images(base))
            )
            assert effects[component][cell] == pytest.approx(float(change), abs=1e-5)


def test_cells_that_nothing_is_read_from(small_vit: Graph, images: Tensor) -> None:
    """Behind the last attention only the class token reaches the logits; patching the others changes nothing."""
    attribution = _attribute(small_vit, "relp", images[:2])
    exact = patch_effects(
        Executor(small_vit),
        find_components(small_vit),
        Examples.images(images[:1]),
        Examples.images(images[1:2]),
        METRIC,
    )
    last = [c for c in attribution.reached if (c.kind, c.block) in {("attention", 1), ("mlp", 1), ("residual", 2)}]
    assert len(last) == 3
    for component, reached in attribution.reached.items():
        assert reached[0].tolist() == (
            [True, False, False, False, False] if component in last else [True] * reached.size
        )
        assert not exact[component][~reached[0]].any()


def test_several_pairs_at_once(small_vit: Graph, images: Tensor) -> None:
    rule_set, components = RULE_SETS["relp"], find_components(small_vit)
    clean, corrupt = images[[0, 1]], images[[1, 2]]
    executor = Executor(small_vit, overrides=rule_set.bind(small_vit, 2).overrides)
    both = attribute(executor, rule_set, components, Examples.images(clean), Examples.images(corrupt), METRIC, CLASSIFY)
    for index in range(2):
        one = _attribute(small_vit, "relp", torch.stack([clean[index], corrupt[index]]))
        for component in components:
            np.testing.assert_allclose(both.effects[component][index], one.effects[component][0], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(both.distances[component][index], one.distances[component][0], rtol=1e-4)
        assert both.clean[index] == pytest.approx(one.clean[0], abs=1e-5)


def test_noising_is_denoising_with_the_images_exchanged(small_vit: Graph, images: Tensor) -> None:
    there, back = (
        _attribute(small_vit, "relp", p, d) for p, d in ((images[:2], "noising"), (images[[1, 0]], "denoising"))
    )
    for component in there.effects:
        np.testing.assert_allclose(there.effects[component], back.effects[component], rtol=1e-5, atol=1e-6)
    assert there.clean == back.corrupt and there.corrupt == back.clean


def test_the_same_image_twice(small_vit: Graph, images: Tensor) -> None:
    with pytest.raises(InputError, match="pair 0 are the same"):
        _attribute(small_vit, "relp", images[[0, 0]])


@given(st.lists(st.integers(1, 200), min_size=1, max_size=5), st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_rows_at_once_never_exceed_what_is_allowed(counts: list[int], most: int) -> None:
    rows = rows_at_once(counts, most)
    assert 1 <= rows <= most
    images = [r + sum(-(-c // r) * r for c in counts) for r in (rows, min(most, max(counts)))]
    assert images[0] <= images[1]


def test_a_window_attention_is_patched_by_head() -> None:
    """Windows are folded into the batch: a head's patch replaces it in all windows of its image and no other."""
    component = Component("head", 0, "b", "t")
    base, source = torch.zeros(3 * 2, 4, 5, 6), torch.ones(2, 4, 5, 6)
    assert cells.count(component, source, 1) == 4
    patched = cells.patched(component, base, source, [1, 3])
    assert cells.sums(component, patched, 3).tolist() == [[0, 60, 0, 0], [0, 0, 0, 60], [0, 0, 0, 0]]
    assert not base.any()
