from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.calibrate.heads import head_pairs
from qvit_deploy.calibrate.observe import observe
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.quantize.folds.heads import balanced, fold_heads, spread
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import images_for, logits, mixed_vit
from tests.support.models.demo_models import demo


def folded(graph: Graph) -> Graph:
    sites = find_sites(graph)
    scores, values = head_pairs(graph, sites)
    columns = [c for p in scores for c in (p.query, p.key)] + [c for v in values for c in (v.value, v.projection)]
    images = images_for(graph, 6)
    seen = observe(Executor(graph), image_batches(images, 3), {c.tensor for c in columns}, 6, 0, {}, lambda _: None)
    return fold_heads(graph, sites, scores, values, seen)


@pytest.mark.parametrize("biases", [True, False])
def test_a_folded_model_computes_the_same(biases: bool) -> None:
    graph = mixed_vit(qkv_bias=biases)
    changed = folded(graph)
    images = images_for(graph, 3, seed=99)
    before, after = logits(graph, images), logits(changed, images)
    assert np.abs(before - after).max() <= 1e-4 * np.abs(before).max()
    assert changed.to_proto().SerializeToString() != graph.to_proto().SerializeToString()


@pytest.mark.parametrize("name", ["deit", "swin"])
def test_demo_models_compute_the_same(name: str) -> None:
    graph = demo(name).graph
    images = images_for(graph, 2, seed=99)
    before, after = logits(graph, images), logits(folded(graph), images)
    assert np.abs(before - after).max() <= 1e-3 * np.abs(before).max()


def moments(seed: int, n: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((4 * n, n)) * np.geomspace(0.01, 10, n)
    return rows.T @ rows / len(rows)


@given(st.integers(0, 1000), st.sampled_from([2, 6, 8, 24]))
@settings(max_examples=25, deadline=None)
def test_both_sides_have_one_moment_with_equal_diagonals(seed: int, n: int) -> None:
    left, right = moments(seed, n), moments(seed + 1, n)
    t = balanced(left, right)
    after, mirrored = t.T @ left @ t, np.linalg.solve(t, np.linalg.solve(t, right).T)
    size = np.abs(after).max()
    np.testing.assert_allclose(after, mirrored, atol=0.05 * size)  # equal but for the damping
    if n in (2, 8):
        np.testing.assert_allclose(np.diag(after), np.trace(after) / n, rtol=0.2)
    lower_bound = np.sqrt(np.linalg.eigvals(left @ right).real.clip(0)).sum() ** 2 / n
    cost = (np.diag(after) * np.diag(mirrored)).sum()
    assert cost <= (np.diag(left) * np.diag(right)).sum() * 1.05
    if n in (2, 8):
        assert lower_bound * 0.7 <= cost <= lower_bound * 1.5


@given(st.integers(1, 65))
@settings(max_examples=20, deadline=None)
def test_the_spread_is_orthogonal_with_entries_of_one_size(n: int) -> None:
    m = spread(n)
    np.testing.assert_allclose(m @ m.T, np.eye(n), atol=1e-9)
    assert np.abs(m).max() <= np.sqrt(2 / n) + 1e-9
