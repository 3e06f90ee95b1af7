"""Relevance of tensors and sites: batches, targets, and what is refused."""

from __future__ import annotations

import pytest
import torch

from qvit_deploy.errors import InputError, NonFiniteError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.relevance.lrp import propagate, site_relevance
from qvit_deploy.relevance.rule_sets import RULE_SETS, fitting, unit
from qvit_deploy.tasks.classify import largest_logit, logit
from tests.support.examples import image_batches
from tests.support.graphs.relevance_graphs import Builder
from tests.support.relevance_at import relevance_at

Tensor = torch.Tensor
NAMES = ["embedded", "blocks.0.q_scaled", "blocks.0.gelu", "blocks.1.norm1", "blocks.1.pattern"]


def _at(graph: Graph, rule_set: str, images: Tensor, names: list[str] = NAMES) -> dict[str, tuple[Tensor, Tensor]]:
    rules = RULE_SETS[rule_set]
    executor = Executor(graph, overrides=rules.bind(graph, len(images)).overrides)
    return relevance_at(executor, images, names, objective=rules.starting_at(largest_logit))


@pytest.mark.parametrize("rule_set", RULE_SETS)
def test_images_of_a_batch_do_not_see_each_other(rule_set: str, small_vit: Graph, images: Tensor) -> None:
    together = _at(small_vit, rule_set, images)
    alone = [_at(small_vit, rule_set, image) for image in images.split(1)]
    for name, (activation, g) in together.items():
        expected = torch.cat([one[name][0] * one[name][1] for one in alone])
        scale = expected.abs().max().clamp(min=1e-12)
        torch.testing.assert_close(activation * g / scale, expected / scale, rtol=1e-3, atol=1e-4)


def test_the_gradient_set_is_autograd(small_vit: Graph, images: Tensor) -> None:
    leaf = images.clone().requires_grad_()
    logits = Executor(small_vit).run(Examples.images(leaf))["logits"]
    expected = torch.autograd.grad(logits.max(1).values.sum(), leaf)[0]
    activation, g = _at(small_vit, "gradient", images, ["image"])["image"]
    assert torch.equal(g, expected) and torch.equal(activation, images)


def test_a_chosen_class(small_vit: Graph, images: Tensor) -> None:
    classes = torch.tensor([0, 3, 4])
    leaf = images.clone().requires_grad_()
    chosen = Executor(small_vit).run(Examples.images(leaf))["logits"][torch.arange(3), classes]
    expected = torch.autograd.grad(chosen.sum(), leaf)[0]
    relevance = relevance_at(Executor(small_vit), images, ["image"], objective=logit(classes))
    assert torch.equal(relevance["image"][1], expected)


def test_a_unit_start_divides_by_the_logit(small_vit: Graph, images: Tensor) -> None:
    executor = Executor(small_vit)
    top = executor.run(Examples.images(images))["logits"].max(1).values.reshape(3, 1, 1, 1)
    objectives = (largest_logit, unit(largest_logit))
    plain, started = (relevance_at(executor, images, ["image"], o)["image"][1] for o in objectives)
    torch.testing.assert_close(started * top, plain, rtol=1e-4, atol=1e-6)


def test_tensors_behind_a_stop_have_no_relevance(small_vit: Graph, images: Tensor) -> None:
    relevance = _at(small_vit, "relp-ah", images)
    assert not relevance["blocks.0.q_scaled"][1].any()
    assert relevance["blocks.1.pattern"][1].any()


def test_an_unknown_tensor_is_named(small_vit: Graph, images: Tensor) -> None:
    with pytest.raises(KeyError, match="nowhere"):
        propagate(Executor(small_vit), Examples.images(images), ["nowhere"], lambda *_: None, largest_logit)


def test_tensors_are_visited_from_the_logits_down(small_vit: Graph, images: Tensor) -> None:
    order: list[str] = []
    propagate(Executor(small_vit), Examples.images(images), NAMES, lambda name, *_: order.append(name), largest_logit)
    assert order.index("blocks.1.pattern") < order.index("blocks.0.gelu") < order.index("embedded")


@pytest.mark.parametrize("rule_set", ["relp", "deep-taylor"])
def test_site_scores_are_mean_absolute_relevance(rule_set: str, small_vit: Graph, images: Tensor) -> None:
    sites = find_sites(small_vit)
    scores = site_relevance(
        small_vit, sites, [Examples.images(images)], RULE_SETS[rule_set], largest_logit, lambda _: None
    )
    names = sorted({n for s in sites for n in (s.input, s.second) if n})
    magnitudes = {n: (a * g).abs().double() for n, (a, g) in _at(small_vit, rule_set, images, names).items()}
    raw = {s.name: float(torch.cat([magnitudes[n].flatten() for n in (s.input, s.second) if n]).mean()) for s in sites}
    total = sum(raw.values())
    assert scores.values == pytest.approx({name: value / total for name, value in raw.items()})
    assert sum(scores.values.values()) == pytest.approx(1.0)
    assert scores.method == f"lrp:{rule_set}" and scores.images == 3
    assert scores.firings["norm"] == 5 and scores.firings["activation"] == 2


def test_site_scores_do_not_depend_on_how_images_are_batched(small_vit: Graph) -> None:
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    sites, rules, seen = find_sites(small_vit), RULE_SETS["deep-taylor"], list[int]()
    one = site_relevance(small_vit, sites, image_batches(images, 1), rules, largest_logit, lambda _: None)
    two = site_relevance(
        small_vit, sites, image_batches(images, 2), rules, largest_logit, seen.append
    )  # 2, 2 and a last one of 1
    assert two.values == pytest.approx(one.values, rel=1e-3)
    assert seen == [2, 2, 1] and two.images == 5


def test_fc1_and_fc2_are_told_apart(small_vit: Graph, images: Tensor) -> None:
    """Their signed sums are equal under `deep-taylor`; scores must not be built on those."""
    values = site_relevance(
        small_vit,
        find_sites(small_vit),
        [Examples.images(images)],
        RULE_SETS["deep-taylor"],
        largest_logit,
        lambda _: None,
    ).values
    assert values["blocks.0.fc1"] > 1.5 * values["blocks.0.fc2"]


def test_no_images_are_refused(small_vit: Graph) -> None:
    with pytest.raises(InputError, match="image"):
        site_relevance(small_vit, find_sites(small_vit), [], RULE_SETS["relp"], largest_logit, lambda _: None)


def test_an_output_that_is_not_finite_is_refused(small_vit: Graph, images: Tensor) -> None:
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="output of the float model"):
        site_relevance(
            small_vit,
            find_sites(small_vit),
            [Examples.images(images)],
            RULE_SETS["relp"],
            largest_logit,
            lambda _: None,
        )


def _gradient_of_random_images(graph: Graph) -> None:
    images = [Examples.images(torch.randn(2, 3, 4, 4))]
    site_relevance(graph, find_sites(graph), images, RULE_SETS["gradient"], largest_logit, lambda _: None)


def test_a_non_finite_relevance_names_the_tensor(builder: Builder) -> None:
    """A square root of 0 has a finite value and an infinite slope."""
    x = builder.linear(builder.op("Reshape", "image", builder.constant([0, 48])), 48, 16, "first")
    x = builder.op("Sqrt", builder.op("Mul", x, builder.constant(0.0)))
    graph = builder.graph(builder.linear(x, 16, 3, "head", "y"), (3, 4, 4))
    with pytest.raises(NonFiniteError, match=r"tensor '[\w.]+'"):
        _gradient_of_random_images(graph)


def test_an_output_that_ignores_the_image_is_refused(builder: Builder) -> None:
    x = builder.op("Mul", builder.op("Reshape", "image", builder.constant([0, 48])), builder.constant(0.0))
    graph = builder.graph(builder.linear(x, 48, 3, "head", "y"), (3, 4, 4))
    with pytest.raises(NonFiniteError, match="ignores"):
        _gradient_of_random_images(graph)


@pytest.mark.parametrize("rule_set", [name for name in RULE_SETS if name != "gradient"])
def test_a_norm_no_rule_matches_is_an_error(rule_set: str, builder: Builder) -> None:
    """A square root of a variance written as a difference of reductions: present, but not recognised."""
    b = builder
    axis = b.constant([-1])
    mean = b.op("ReduceMean", "image", axis)
    square = b.op("ReduceMean", b.op("Mul", "image", "image"), axis)
    sigma = b.op("Sqrt", b.op("Abs", b.op("Sub", square, b.op("Mul", mean, mean))))
    graph = b.graph(b.op("Div", b.op("Sub", "image", mean), sigma, name="y"), (2, 3, 4), name="odd")
    with pytest.raises(InputError, match="rule 'norm' matches no node of 'odd' although it has Sqrt"):
        RULE_SETS[rule_set].bind(graph, 1)
    assert RULE_SETS["gradient"].bind(graph, 1).overrides == {}


def test_a_transformer_on_which_nothing_fires_is_an_error(builder: Builder) -> None:
    graph = builder.graph(builder.op("Softmax", "image", axis=-1, name="y"), (2, 3, 4))
    with pytest.raises(InputError, match="matches no node"):
        RULE_SETS["relp"].bind(graph, 1)


def test_where_no_rule_has_anything_to_do_the_gradient_takes_its_place(
    builder: Builder, small_vit: Graph, caplog: pytest.LogCaptureFixture
) -> None:
    graph = builder.graph(builder.op("Softmax", "image", axis=-1, name="y"), (2, 3, 4))
    assert fitting(RULE_SETS["relp"], graph, "score lrp").name == "gradient"
    assert "score lrp: the model has nothing that a rule of 'relp' applies to" in caplog.text
    caplog.clear()
    for name, rule_set in RULE_SETS.items():
        assert fitting(rule_set, small_vit, "") is rule_set
        if name != "relp" and name != "attnlrp":
            assert fitting(rule_set, graph, "") is rule_set
    assert not caplog.text


def test_firings_count_every_rule(small_vit: Graph) -> None:
    firings = RULE_SETS["deep-taylor"].bind(small_vit, 1).firings
    assert dict(firings) == {
        "norm": 5, "activation": 2, "softmax": 2, "conv": 1, "linear": 9, "matmul": 4, "gate": 0, "residual": 4,
        "quantizer": 0,
    }  # fmt: skip


def test_operators_whose_result_is_unused_fire_nothing(builder: Builder) -> None:
    builder.op("Gelu", "image", name="unused")
    graph = builder.graph(builder.op("Relu", "image", name="y"), (2, 3, 4))
    assert dict(RULE_SETS["relp"].bind(graph, 1).firings) == {"quantizer": 0, "norm": 0, "activation": 1, "gate": 0}


def decoder(b: Builder, last: str = "") -> Graph:
    """Queries that do not come from the image, in a linear of their own, read 4 rows of 12 of it."""
    rows = b.op("Reshape", "image", b.constant([0, 4, 12]), name="rows")
    count = b.op("Shape", "image", start=0, end=1)
    shape = b.op("Concat", count, b.constant([2]), b.constant([12]), axis=0)
    queries = b.linear(b.op("Expand", b.normal(1, 2, 12), shape, name="queries"), 12, 12, "project", "projected")
    scores = b.op("MatMul", queries, b.op("Transpose", rows, perm=[0, 2, 1]))
    y = b.op("MatMul", b.op("Softmax", scores, axis=-1), rows, name="y")
    return b.graph(b.op("Cast", b.op(last, y), to=1, name="out") if last else y, (3, 4, 4))


@pytest.mark.parametrize("name", ["queries", "projected"])
def test_what_does_not_come_from_the_image_has_coefficients_too(name: str, builder: Builder) -> None:
    """By finite differences of the tensor itself."""
    graph = decoder(builder)
    executor, image = Executor(graph), torch.randn(1, 3, 4, 4)
    weights = torch.randn(1, 2, 12)

    def objective(outputs: dict[str, Tensor]) -> Tensor:
        return (outputs["y"] * weights).flatten(1).sum(1)

    activation, g = relevance_at(executor, image, [name], objective)[name]
    for row, channel in ((0, 0), (1, 7)):
        step = torch.zeros_like(activation)
        step[0, row, channel] = 1e-2
        up, down = (
            float(objective(executor.run(Examples.images(image), {name: lambda x, move=move: x + move})))
            for move in (step, -step)
        )
        assert float(g[0, row, channel]) == pytest.approx((up - down) / 2e-2, abs=2e-3)


def test_outputs_behind_a_comparison_are_refused_with_what_to_do(builder: Builder) -> None:
    graph = decoder(builder, last="IsNaN")
    with pytest.raises(InputError, match=r"no gradient goes from the outputs of 'small'.*export the scores in front"):
        relevance_at(Executor(graph), torch.randn(1, 3, 4, 4), ["rows"], lambda outputs: outputs["out"].sum((1, 2)))
