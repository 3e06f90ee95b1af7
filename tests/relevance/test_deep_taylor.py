"""`deep-taylor` against Chefer's rules propagated as relevance, and what those rules conserve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.relevance import backward
from qvit_deploy.relevance.lrp import site_relevance
from qvit_deploy.relevance.rule_sets import RULE_SETS, shared_unit, unit
from qvit_deploy.tasks.classify import largest_logit
from qvit_deploy.tasks.objective import projection
from tests.support.examples import image_batches
from tests.support.graphs.relevance_graphs import Builder, vit
from tests.support.graphs.relevance_references import VitRelevance, lrp_add, lrp_box, lrp_linear
from tests.support.graphs.several_outputs import two_heads
from tests.support.relevance_at import relevance_at

RULES = RULE_SETS["deep-taylor"]


def _relevance(graph: Graph, images: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    executor = Executor(graph, overrides=RULES.bind(graph, len(images)).overrides)
    relevance = relevance_at(executor, images, names, objective=unit(largest_logit))
    return {name: a * g for name, (a, g) in relevance.items()}


@pytest.mark.parametrize("seed", range(3))
def test_a_vit_matches_relevance_propagated_as_relevance(seed: int, images: torch.Tensor) -> None:
    graph = vit(seed=seed)
    names = [out.name for node in graph.nodes() for out in node.outputs if out.name and out.name[0] != "t"]
    names = [n for n in names if not n.endswith(".product")]
    for image in images.split(1):
        reference = VitRelevance(
            graph, Executor(graph).run(Examples.images(image), fetch=names), blocks=2, heads=2
        ).relevance
        ours = _relevance(graph, image, sorted(reference))
        for name, expected in reference.items():
            # Sign-mixed sums cancel, so float32 is compared at the scale of the tensor, not of the element.
            worst = np.abs(ours[name].numpy()[0] - expected).max() / np.abs(expected).max()
            assert worst < 2e-3, name


def test_the_signed_sum_is_conserved_through_a_block(small_vit: Graph, images: torch.Tensor) -> None:
    b = "blocks.1"
    r = _relevance(small_vit, images, [f"{b}.{n}" for n in ("gelu", "hidden", "norm2", "mlp", "out", "mid")])
    total = {name.removeprefix(f"{b}."): t.flatten(1).sum(1) for name, t in r.items()}
    torch.testing.assert_close(total["out"], torch.ones(3), rtol=1e-3, atol=1e-4)  # R starts at 1 per image
    torch.testing.assert_close(total["mid"], total["out"], rtol=1e-3, atol=1e-3)
    for inner in ("hidden", "gelu", "norm2"):
        torch.testing.assert_close(total[inner], total["mlp"], rtol=1e-3, atol=1e-3)


def test_attention_splits_relevance_in_halves_and_quarters(small_vit: Graph, images: torch.Tensor) -> None:
    names = [f"blocks.1.{n}" for n in ("joined", "pattern", "v", "q_scaled", "k_t")]
    out, pattern, v, q, k = (_relevance(small_vit, images, names)[n].flatten(1).sum(1) for n in names)
    for part, share in ((pattern, 0.5), (v, 0.5), (q, 0.25), (k, 0.25)):
        torch.testing.assert_close(part, share * out, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("first", [True, False])
def test_a_linear_layer_is_z_plus_and_on_the_image_z_box(first: bool, builder: Builder) -> None:
    """A patch embedding arrives as a Linear over the image's own pixels, moved around."""
    w = builder.random.standard_normal((6, 4)).astype(np.float32)
    x = builder.op("Reshape", "image", builder.constant([0, 6]))
    x = x if first else builder.op("Mul", x, builder.constant(2.0))
    y = builder.op("MatMul", x, builder.constant(w, "w"))
    graph = builder.graph(builder.op("Add", y, builder.normal(4, name="bias"), name="y"), (1, 2, 3))
    images = torch.randn(5, 1, 2, 3)
    values = Executor(graph).run(Examples.images(images), fetch=[x, "y"])
    relevance = _relevance(graph, images, [x])[x].numpy()
    for i, row in enumerate(values[x].double().numpy()):
        r = np.zeros((1, 4))
        r[0, values["y"][i].argmax()] = 1.0
        weight = w.T.astype(float)
        expected = lrp_box(row[None], weight, r, row.min(), row.max()) if first else lrp_linear(row[None], weight, r)
        np.testing.assert_allclose(relevance[i : i + 1], expected, rtol=1e-4, atol=1e-6)


def test_a_weight_on_the_left_is_z_plus_too(builder: Builder) -> None:
    w = builder.random.standard_normal((4, 6))
    x = builder.op("Tanh", builder.op("Reshape", "image", builder.constant([0, 6, 1])))
    y = builder.op("Squeeze", builder.op("MatMul", builder.constant(w), x), builder.constant([2]), name="y")
    graph = builder.graph(y, (1, 2, 3))
    images = torch.randn(5, 1, 2, 3)
    values = Executor(graph).run(Examples.images(images), fetch=[x, "y"])
    r = np.zeros((5, 4))
    r[np.arange(5), values["y"].argmax(1)] = 1.0
    expected = lrp_linear(values[x].numpy()[..., 0].astype(float), w, r)
    np.testing.assert_allclose(_relevance(graph, images, [x])[x].numpy()[..., 0], expected, rtol=1e-4, atol=1e-6)


def _dense(convolution: torch.nn.Module, shape: tuple[int, ...]) -> np.ndarray:
    """A convolution without bias as a matrix [out, in]."""
    size = int(np.prod(shape))
    columns = convolution(torch.eye(size, dtype=torch.float64).reshape(size, *shape))
    return columns.flatten(1).T.detach().numpy()


@pytest.mark.parametrize("first", [True, False])
def test_a_convolution_is_z_plus_and_on_the_image_z_box(first: bool, builder: Builder) -> None:
    kernel = builder.random.standard_normal((4, 1, 3, 2))
    x = "image" if first else builder.op("Mul", "image", builder.constant(2.0), name="x")
    layout = dict(strides=[2, 1], pads=[1, 0, 0, 1], dilations=[1, 2], group=2)
    maps = builder.op("Conv", x, builder.constant(kernel), builder.normal(4), name="maps", **layout)
    y = builder.op("ReduceMean", maps, builder.constant([2, 3]), keepdims=0, name="y")
    graph = builder.graph(y, (2, 5, 4))
    images = torch.randn(3, 2, 5, 4)
    relevance = _relevance(graph, images, [x, "maps"])
    module = torch.nn.Conv2d(2, 4, (3, 2), (2, 1), 0, (1, 2), groups=2, bias=False).double()
    module.weight.data = torch.from_numpy(kernel.astype(np.float32).astype(float))
    matrix = _dense(torch.nn.Sequential(torch.nn.ZeroPad2d((0, 1, 1, 0)), module), (2, 5, 4))
    for i, image in enumerate(images if first else 2 * images):
        flat, r = image.flatten()[None].double().numpy(), relevance["maps"][i].flatten()[None].double().numpy()
        low, high = float(image.min()), float(image.max())
        expected = lrp_box(flat, matrix, r, low, high) if first else lrp_linear(flat, matrix, r)
        np.testing.assert_allclose(relevance[x][i].flatten()[None].numpy(), expected, rtol=1e-3, atol=1e-5)


def test_a_transposed_convolution_is_z_plus(builder: Builder) -> None:
    kernel = builder.random.standard_normal((2, 3, 3, 2))
    x = builder.op("Mul", "image", builder.constant(2.0), name="x")
    maps = builder.op("ConvTranspose", x, builder.constant(kernel), builder.normal(3), strides=[2, 3], name="maps")
    y = builder.op("ReduceMean", maps, builder.constant([2, 3]), keepdims=0, name="y")
    graph = builder.graph(y, (2, 4, 3))
    images = torch.randn(3, 2, 4, 3)
    relevance = _relevance(graph, images, [x, "maps"])
    module = torch.nn.ConvTranspose2d(2, 3, (3, 2), (2, 3), bias=False).double()
    module.weight.data = torch.from_numpy(kernel.astype(np.float32).astype(float))
    matrix = _dense(module, (2, 4, 3))
    for i, image in enumerate(2 * images):
        flat, r = image.flatten()[None].double().numpy(), relevance["maps"][i].flatten()[None].double().numpy()
        expected = lrp_linear(flat, matrix, r)
        np.testing.assert_allclose(relevance[x][i].flatten()[None].numpy(), expected, rtol=1e-3, atol=1e-5)


def test_a_residual_is_rescaled_image_by_image() -> None:
    torch.manual_seed(0)
    a, b, g = (torch.randn(4, 5, 6, dtype=torch.float64) for _ in range(3))
    g_a, g_b = backward.residual(g, a, b, batch=4)
    for i in range(4):
        r_a, r_b = lrp_add(a[i].numpy(), b[i].numpy(), (g * (a + b))[i].numpy())
        np.testing.assert_allclose((g_a * a)[i].numpy(), r_a, rtol=1e-9)
        np.testing.assert_allclose((g_b * b)[i].numpy(), r_b, rtol=1e-9)


def test_a_residual_of_windows_sums_over_the_windows_of_an_image() -> None:
    a, b, g = (torch.randn(4, 5, 6) for _ in range(3))
    windows = backward.residual(g, a, b, batch=2)
    whole = backward.residual(*(t.reshape(2, 10, 6) for t in (g, a, b)), batch=2)
    for part, expected in zip(windows, whole, strict=True):
        torch.testing.assert_close(part.reshape(2, 10, 6), expected)


def test_a_broadcast_branch_keeps_its_shape() -> None:
    a, b, g = torch.randn(2, 5, 6), torch.randn(2, 1, 6), torch.randn(2, 5, 6)
    g_a, g_b = backward.residual(g, a, b, batch=2)
    assert g_a.shape == a.shape and g_b.shape == b.shape
    torch.testing.assert_close((g_a * a).sum() + (g_b * b).sum(), (g * (a + b)).sum())


def test_a_residual_without_relevance_or_batch() -> None:
    zero = torch.zeros(2, 3)
    assert all(torch.equal(t, zero) for t in backward.residual(zero, zero, torch.ones(2, 3), batch=2))
    with pytest.raises(InputError, match="batch"):
        backward.residual(zero, zero, zero, batch=3)


def test_a_rotary_embedding_is_no_skip_connection(builder: Builder) -> None:
    """x cos + rotated(x) sin is one tensor under a linear map; rescaling its parts would depend on the export."""
    b = builder
    halves = [b.op("Slice", "image", *(b.constant([n]) for n in (start, start + 2, 3))) for start in (0, 2)]
    rotated = b.op("Concat", b.op("Neg", halves[1]), halves[0], axis=3)
    sum_ = b.op("Add", b.op("Mul", "image", b.normal(4)), b.op("Mul", rotated, b.normal(4)))
    graph = b.graph(b.op("Add", sum_, b.op("Relu", sum_), name="y"), (2, 3, 4))
    assert RULES.bind(graph, 1).firings["residual"] == 1  # only sum + relu(sum)


def test_batch_norm_and_layer_norm_pass_relevance_on(builder: Builder) -> None:
    b = builder
    vectors = [b.normal(2), b.normal(2), b.normal(2), b.constant(np.float32([0.5, 2.0]))]
    x = b.op("BatchNormalization", "image", *vectors, name="x")
    x = b.op("LayerNormalization", x, b.normal(4), b.normal(4), axis=-1, name="n")
    graph = b.graph(b.op("ReduceMean", x, b.constant([2, 3]), keepdims=0, name="y"), (2, 3, 4))
    r = _relevance(graph, torch.randn(3, 2, 3, 4), ["image", "x", "n"])
    torch.testing.assert_close(r["x"], r["n"], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(r["image"], r["n"], rtol=1e-3, atol=1e-5)


@pytest.fixture
def outputs() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {"map": torch.randn(6, 3, 4, generator=g), "far": 100 + torch.randn(6, 2, generator=g)}


def test_a_start_that_scores_layers_shares_one_among_all_outputs_and_is_nowhere_negative(
    outputs: dict[str, torch.Tensor],
) -> None:
    """Also where the projection on signs is near zero, and for signs that differ."""
    for seed in (0, 1):
        leaves = {name: value.clone().requires_grad_() for name, value in outputs.items()}
        shared_unit(projection([outputs], seed))(leaves).sum().backward()
        for name, y in leaves.items():
            assert y.grad is not None
            squares = outputs[name].square().flatten(1)
            expected = (squares / squares.sum(1, keepdim=True) / 2).reshape(y.shape)
            torch.testing.assert_close((y.grad * y).detach(), expected)


def test_a_start_that_scores_layers_is_one_hot_for_a_class(outputs: dict[str, torch.Tensor]) -> None:
    leaf = outputs["far"].clone().requires_grad_()
    by_unit, by_share = (torch.autograd.grad(start(largest_logit)({"far": leaf}).sum(), leaf)[0]
                         for start in (unit, shared_unit))  # fmt: skip
    assert torch.equal(by_unit, by_share)


def test_an_output_that_is_zero_for_an_image_starts_with_no_relevance(outputs: dict[str, torch.Tensor]) -> None:
    objective = projection([outputs], 0)
    leaves = {name: value.clone() for name, value in outputs.items()}
    leaves["map"][2] = 0
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    shared_unit(objective)(leaves).sum().backward()
    assert all(y.grad is not None and bool(y.grad.isfinite().all()) for y in leaves.values())
    assert leaves["map"].grad is not None and not leaves["map"].grad[2].any()


def test_scores_by_several_outputs_do_not_depend_on_the_signs() -> None:
    graph = two_heads()
    sites, batches = find_sites(graph), list(image_batches(torch.randn(8, 3, 16, 16), 4))
    sample = [Executor(graph).run(batch) for batch in batches]
    one, other = (
        site_relevance(graph, sites, batches, RULES, projection(sample, seed), lambda _: None) for seed in (0, 1)
    )
    assert one.values == pytest.approx(other.values, rel=1e-3)
    assert all(value > 0 for value in one.values.values())
