from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qvit_deploy.calibrate.observe import Observation, observe
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.channels import norm_groups
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.quantize.folds.norms import Fold, channel_fold, fold_norms
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import canonical, images_for, logits, mixed_vit, project
from tests.support.graphs.relevance_graphs import Builder


def fold(graph: Graph, clip: float = 8.0) -> tuple[Graph, dict[str, Fold]]:
    sites = find_sites(graph)
    groups = norm_groups(graph, sites)
    images = images_for(graph)
    seen = observe(
        Executor(graph), image_batches(images, 3), [g.norm for g in groups], len(images), 0, {}, lambda _: None
    )
    folds = {n: channel_fold(o, clip, 8) for n, o in seen.items()}
    return fold_norms(graph, sites, groups, folds), folds


def between(low: np.ndarray, high: np.ndarray) -> Observation:
    """Channels spread evenly over their ranges."""
    rows = torch.from_numpy(np.linspace(low, high, 50, dtype=np.float32))
    return Observation(float(low.min()), float(high.max()), low, high, rows, torch.ones(50), len(low))


def assert_same_function(graph: Graph, folded: Graph) -> None:
    """On images that did not set the folds; float32 arithmetic is all that separates the two."""
    images = images_for(graph, 3, seed=99)
    expected, got = logits(graph, images), logits(folded, images)
    assert np.abs(expected - got).max() <= 2e-6 * np.abs(expected).max() * np.sqrt(len(list(graph.nodes())))
    assert [o.name for o in folded.outputs] == [o.name for o in graph.outputs]


def sequence(read: Callable[[Builder, str], str], width: int = 16) -> Graph:
    """[batch, 4, width] tokens that differ between channels by orders of magnitude, normed as `norm`, then `read`."""
    b = Builder(1)
    x = b.op("Reshape", "image", b.constant([0, 4, width]))
    scale = b.constant(np.geomspace(0.01, 30, width), "norm.weight")
    normed = b.op("LayerNormalization", x, scale, b.normal(width, name="norm.bias"), name="norm", axis=-1)
    return canonical(b, read(b, normed), (1, 4, width))


def pooled(b: Builder, x: str, width: int = 16) -> str:
    return b.linear(b.op("ReduceMean", x, b.constant([1]), keepdims=0), width, 5, "head", "logits")


@pytest.mark.parametrize("biases", [True, False])
def test_a_folded_model_computes_the_same(biases: bool) -> None:
    """With q, k and v reading one norm, and with a head and a key projection that have to be given a bias."""
    graph = mixed_vit(head_bias=biases, qkv_bias=biases)
    folded, folds = fold(graph)
    assert len(folds) == 3
    assert_same_function(graph, folded)
    biased = {s.name for s in find_sites(folded) if s.bias is not None}
    assert {"attn.k", "head", "fc1"} <= biased
    assert [s.name for s in find_sites(folded)] == [s.name for s in find_sites(graph)]


def test_swin_folds_through_rolled_windows_and_patch_merging(tiny_swin: Graph) -> None:
    folded, folds = fold(tiny_swin)
    groups = {site for g in norm_groups(tiny_swin, find_sites(tiny_swin)) for site in g.sites}
    assert {"layers.0.blocks.1.attn.qkv", "layers.1.blocks.1.attn.qkv", "layers.1.downsample.reduction"} <= groups
    assert len(folds) == 9 and all(f.scale.std() > 0 for f in folds.values())
    assert_same_function(tiny_swin, folded)


def test_timm_s_vit_folds_up_to_its_head(tiny_vit: Graph) -> None:
    folded, folds = fold(tiny_vit)
    assert len(folds) == 5
    assert_same_function(tiny_vit, folded)


def test_a_bias_that_two_linears_shared_changes_for_one_only() -> None:
    def read(b: Builder, x: str) -> str:
        shared = b.normal(16, name="shared.bias")
        y = b.op("Add", b.op("MatMul", x, b.normal(16, 16, name="first.weight")), shared)
        return pooled(b, b.op("Add", b.op("MatMul", b.op("Gelu", y), b.normal(16, 16, name="second.weight")), shared))

    graph = sequence(read)
    folded, folds = fold(graph)
    assert len(folds) == 1
    assert_same_function(graph, folded)


def test_folding_evens_the_channels_out() -> None:
    graph = sequence(lambda b, x: pooled(b, b.linear(x, 16, 16, "fc")))
    folded, folds = fold(graph, clip=1e9)
    norm = next(iter(folds))
    images = images_for(graph)
    tensor = Executor(folded).run(Examples.images(images), fetch=[norm])[norm].reshape(-1, 16)
    extremes = torch.stack([tensor.amax(0), -tensor.amin(0)])
    # Each channel's best 8-bit range of 100 rows has head-room or cuts a little of it, none much.
    assert extremes.max() / extremes.min() < 2.5
    before = Executor(graph).run(Examples.images(images), fetch=[norm])[norm].reshape(-1, 16)
    assert (before.amax(0) - before.amin(0)).max() > 100 * (before.amax(0) - before.amin(0)).min()


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_codes_are_those_of_the_channel_wise_asymmetric_quantizer(bits: int) -> None:
    """y' = (y - c) / r on the symmetric grid of step s is y on channel k's grid of step s r_k with real offset
    -c_k / (s r_k): round((y - c_k) / (s r_k)) both times. Codes may differ where float32 cannot tell a tie."""
    graph = sequence(lambda b, x: pooled(b, b.linear(x, 16, 16, "fc")))
    folded, folds = fold(graph)
    (norm, how) = next(iter(folds.items()))
    images = images_for(graph, 20)
    y, changed = (
        Executor(g).run(Examples.images(images), fetch=[norm])[norm].double().numpy() for g in (graph, folded)
    )
    step = np.abs(changed).max() / (2 ** (bits - 1) - 1)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    symmetric = np.clip(np.rint(changed / step), low, high)
    levels = y / (step * how.scale) - how.shift / (step * how.scale)
    channelwise = np.clip(np.rint(levels), low, high)
    undecided = np.abs(np.abs(levels - np.trunc(levels)) - 0.5) < 1e-3
    assert np.array_equal(symmetric[~undecided], channelwise[~undecided])
    assert undecided.mean() < 0.01 and np.unique(symmetric).size > 2 ** (bits - 2)


@given(
    arrays(np.float32, 12, elements=st.floats(-100, 100, width=32)),
    arrays(np.float32, 12, elements=st.floats(0, 1000, width=32)),
    st.floats(1.5, 50),
)
@settings(max_examples=40, deadline=None)
def test_clipped_scales_stay_close_to_each_other(low: np.ndarray, width: np.ndarray, clip: float) -> None:
    fold = channel_fold(between(low, low + width), clip, 4)
    assert np.isfinite(fold.scale).all() and (fold.scale > 0).all() and np.isfinite(fold.shift).all()
    assert fold.scale.max() / fold.scale.min() <= clip**2 * (1 + 1e-9)  # clip times the median, and the median / clip
    alive = (low + width).astype(np.float64) - low > 2e-8
    if alive.any():
        np.testing.assert_allclose(np.log(fold.scale[alive]).mean(), 0, atol=1e-9)


def test_dead_channels_do_not_move_the_others() -> None:
    low = np.array([-1, -2, -4, 3, 0], np.float32)
    high = np.array([1, 2, 4, 3, 0], np.float32)
    some, live = channel_fold(between(low, high), 8, 4), channel_fold(between(low[:3], high[:3]), 8, 4)
    np.testing.assert_allclose(some.scale[:3], live.scale)
    np.testing.assert_allclose(some.shift, [0, 0, 0, 3, 0])
    nothing = channel_fold(between(np.zeros(3, np.float32), np.zeros(3, np.float32)), 8, 4)
    assert nothing.scale.tolist() == [1, 1, 1] and nothing.shift.tolist() == [0, 0, 0]


def test_a_model_with_dead_channels_computes_the_same() -> None:
    def read(b: Builder, x: str) -> str:
        b.initializers["norm.weight"][3:6] = 0
        return pooled(b, project(b, x, 16, 16, "fc", bias=False))

    graph = sequence(read)
    folded, folds = fold(graph)
    assert np.isfinite(next(iter(folds.values())).scale).all()
    assert_same_function(graph, folded)
    assert all(np.isfinite(a).all() for v in folded.initializers.values() if (a := constant(v)) is not None)


def test_the_source_graph_is_left_alone() -> None:
    graph = mixed_vit()
    before = graph.to_proto().SerializeToString(deterministic=True)
    fold(graph)
    assert graph.to_proto().SerializeToString(deterministic=True) == before
