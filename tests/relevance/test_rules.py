"""Each rule on the smallest graph that has it, against RelP's reference functions (arXiv 2508.21258)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import slope_at_zero
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.tasks.classify import logits_of
from tests.support.graphs.relevance_graphs import Builder
from tests.support.graphs.relevance_references import gelu_rule, half_rule, ln_rule

Tensor = torch.Tensor
IMAGE = (2, 3, 4)


def _gradient(graph: Graph, x: Tensor, rule_set: str, g: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    output = logits_of(
        Executor(graph, overrides=RULE_SETS[rule_set].bind(graph, len(x)).overrides).run(Examples.images(leaf))
    )
    return torch.autograd.grad(output, leaf, g)[0]


def _compare(graph: Graph, reference: Callable[[Tensor], Tensor], rule_set: str = "relp") -> None:
    x = torch.randn(5, *IMAGE)
    x[0, 0, 0, :2] = 0.0  # the limit of act(x)/x
    leaf = x.clone().requires_grad_()
    expected_output = reference(leaf)
    g = torch.randn_like(expected_output)
    torch.testing.assert_close(
        logits_of(Executor(graph).run(Examples.images(x))), expected_output.detach(), rtol=1e-5, atol=1e-6
    )
    expected = torch.autograd.grad(expected_output, leaf, g)[0]
    torch.testing.assert_close(_gradient(graph, x, rule_set, g), expected, rtol=1e-4, atol=1e-5)


def _firings(graph: Graph, rule_set: str = "relp") -> dict[str, int]:
    return {name: n for name, n in RULE_SETS[rule_set].bind(graph, 1).firings.items() if n}


def test_layer_norm(builder: Builder) -> None:
    w, b = builder.random.standard_normal((2, 4)).astype(np.float32)
    y = builder.op(
        "LayerNormalization", "image", builder.constant(w), builder.constant(b), axis=-1, epsilon=1e-3, name="y"
    )
    _compare(builder.graph(y, IMAGE), lambda x: ln_rule(x, torch.from_numpy(w), torch.from_numpy(b), 1e-3))


def test_layer_norm_over_two_axes_and_without_bias(builder: Builder) -> None:
    w = builder.random.standard_normal((3, 4)).astype(np.float32)
    y = builder.op("LayerNormalization", "image", builder.constant(w), axis=2, epsilon=1e-3, name="y")

    def reference(x: Tensor) -> Tensor:
        flat = ln_rule(x.flatten(2), torch.from_numpy(w).flatten(), torch.zeros(12), 1e-3)
        return flat.reshape(x.shape)

    _compare(builder.graph(y, IMAGE), reference)


def test_layer_norm_written_out(builder: Builder) -> None:
    """An export that decomposes LayerNorm gets the same rule from the stop at its square root."""
    b, axis = builder, builder.constant([-1])
    centred = b.op("Sub", "image", b.op("ReduceMean", "image", axis))
    variance = b.op("ReduceMean", b.op("Mul", centred, centred), axis)
    sigma = b.op("Sqrt", b.op("Add", variance, b.constant(1e-3)))
    y = b.op("Mul", b.op("Div", centred, sigma), b.constant(np.full(4, 1.5)), name="y")
    graph = b.graph(y, IMAGE)
    _compare(graph, lambda x: ln_rule(x, torch.full((4,), 1.5), torch.zeros(4), 1e-3))
    assert _firings(graph) == {"norm": 1}  # the square inside the norm is no gate: nothing flows through it


@pytest.mark.parametrize("exponent", [-0.5, 0.5])
def test_rms_norm_written_out(exponent: float, builder: Builder) -> None:
    b = builder
    square = b.op("ReduceMean", b.op("Pow", "image", b.constant(2.0)), b.constant([-1]))
    size = b.op("Pow", b.op("Add", square, b.constant(1e-3)), b.constant(exponent))
    y = b.op("Mul" if exponent < 0 else "Div", "image", size, name="y")
    _compare(b.graph(y, IMAGE), lambda x: x / (x.pow(2).mean(-1, keepdim=True) + 1e-3).sqrt().detach())


def test_unit_length_norm(builder: Builder) -> None:
    graph = builder.graph(builder.op("LpNormalization", "image", axis=-1, p=2, name="y"), IMAGE)
    _compare(graph, lambda x: x / x.norm(dim=-1, keepdim=True).detach())


def test_instance_norm(builder: Builder) -> None:
    scale, bias = np.float32([1.5, -0.5]), np.float32([0.1, 0.2])
    y = builder.op(
        "InstanceNormalization", "image", builder.constant(scale), builder.constant(bias), epsilon=1e-3, name="y"
    )

    def reference(x: Tensor) -> Tensor:
        flat = ln_rule(x.flatten(2), torch.ones(12), torch.zeros(12), 1e-3).reshape(x.shape)
        return flat * torch.from_numpy(scale)[:, None, None] + torch.from_numpy(bias)[:, None, None]

    _compare(builder.graph(y, IMAGE), reference)


def test_group_norm(builder: Builder) -> None:
    scale, bias = builder.random.standard_normal((2, 2)).astype(np.float32)
    y = builder.op(
        "GroupNormalization", "image", builder.constant(scale), builder.constant(bias), num_groups=1, epsilon=1e-3,
        name="y",
    )  # fmt: skip

    def reference(x: Tensor) -> Tensor:
        flat = ln_rule(x.flatten(1), torch.ones(24), torch.zeros(24), 1e-3).reshape(x.shape)
        return flat * torch.from_numpy(scale)[:, None, None] + torch.from_numpy(bias)[:, None, None]

    graph = builder.graph(y, IMAGE)
    _compare(graph, reference)
    assert _firings(graph) == {"norm": 1}


@pytest.mark.parametrize("op", ["Elu", "Celu", "Selu", "Softsign", "Shrink", "PRelu"])
def test_an_activation_is_its_secant(op: str, builder: Builder) -> None:
    more = [builder.constant(np.full((2, 1, 1), 0.2))] if op == "PRelu" else []
    graph = builder.graph(builder.op(op, "image", *more, name="y"), IMAGE)
    slope = slope_at_zero(next(graph.nodes()))

    def reference(x: Tensor) -> Tensor:
        y = Executor(graph).run(Examples.images(x.detach()))["y"]
        return x * torch.where(x == 0, torch.full((), slope), y / x).detach()

    _compare(graph, reference)
    assert _firings(graph) == {"activation": 1}


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_linear_map_between_pixels_keeps_its_gradient(mode: str, builder: Builder) -> None:
    """Relevance that leaves a Resize is the relevance that arrived: y is linear in x."""
    y = builder.op("Resize", "image", "", builder.constant(np.float32([1, 1, 2, 1.5])), mode=mode, name="y")
    graph = builder.graph(y, IMAGE)
    x, g = torch.randn(5, *IMAGE), torch.randn(5, 2, 6, 6)
    relevance = (x * _gradient(graph, x, "relp", g)).flatten(1).sum(1)
    arrived = (Executor(graph).run(Examples.images(x))["y"] * g).flatten(1).sum(1)
    torch.testing.assert_close(relevance, arrived, rtol=1e-4, atol=1e-4)


def test_gelu_keeps_its_slope_at_zero(builder: Builder) -> None:
    _compare(builder.graph(builder.op("Gelu", "image", name="y"), IMAGE), gelu_rule)


def test_tanh_gelu(builder: Builder) -> None:
    graph = builder.graph(builder.op("Gelu", "image", approximate="tanh", name="y"), IMAGE)
    gain = lambda x: 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))  # noqa: E731
    _compare(graph, lambda x: x * gain(x).detach())


@pytest.mark.parametrize("op,attributes", [("Relu", {}), ("LeakyRelu", {"alpha": 0.3})])
def test_piecewise_linear_activations_keep_their_gradient(op: str, attributes: dict, builder: Builder) -> None:
    run = F.relu if op == "Relu" else lambda x: F.leaky_relu(x, 0.3)
    _compare(builder.graph(builder.op(op, "image", name="y", **attributes), IMAGE), run)


def test_tanh(builder: Builder) -> None:
    graph = builder.graph(builder.op("Tanh", "image", name="y"), IMAGE)
    _compare(graph, lambda x: x * torch.where(x == 0, torch.ones(()), torch.tanh(x) / x).detach())


def test_gelu_written_out(builder: Builder) -> None:
    b = builder
    erf = b.op("Erf", b.op("Div", "image", b.constant(2**0.5)))
    gain = b.op("Add", erf, b.constant(1.0))
    y = b.op("Mul", b.op("Mul", "image", b.constant(0.5)), gain, name="y")
    graph = b.graph(y, IMAGE)
    _compare(graph, gelu_rule)
    assert _firings(graph) == {"activation": 1}


def test_tanh_gelu_written_out(builder: Builder) -> None:
    b = builder
    cube = b.op("Mul", b.op("Pow", "image", b.constant(3.0)), b.constant(0.044715))
    inner = b.op("Mul", b.op("Add", "image", cube), b.constant((2 / np.pi) ** 0.5))
    gain = b.op("Add", b.op("Tanh", inner), b.constant(1.0))
    y = b.op("Mul", gain, b.op("Mul", "image", b.constant(0.5)), name="y")
    graph = b.graph(y, IMAGE)
    value = lambda x: 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))  # noqa: E731
    _compare(graph, lambda x: x * value(x).detach())
    assert _firings(graph)["activation"] >= 1 and "gate" not in _firings(graph)


def test_silu_is_an_activation_not_a_gate(builder: Builder) -> None:
    y = builder.op("Mul", "image", builder.op("Sigmoid", "image"), name="y")
    graph = builder.graph(y, IMAGE)
    _compare(graph, lambda x: x * torch.sigmoid(x).detach())
    assert _firings(graph) == {"activation": 1}


def test_a_swiglu_gate_is_halved(builder: Builder) -> None:
    b = builder
    left, right = (b.op("MatMul", "image", b.normal(4, 4, name=n)) for n in ("wl", "wr"))
    y = b.op("Mul", b.op("Mul", left, b.op("Sigmoid", left)), right, name="y")
    wl, wr = (torch.from_numpy(b.initializers[n]) for n in ("wl", "wr"))

    def reference(x: Tensor) -> Tensor:
        a = x @ wl
        return half_rule(a * torch.sigmoid(a).detach(), x @ wr)

    graph = b.graph(y, IMAGE)
    _compare(graph, reference)
    assert _firings(graph) == {"activation": 1, "gate": 1}


def test_a_sigmoid_of_something_else_is_a_gate(builder: Builder) -> None:
    """Squeeze and excite: the factor depends on the pooled map, not elementwise on x."""
    pooled = builder.op("ReduceMean", "image", builder.constant([2, 3]))
    graph = builder.graph(builder.op("Mul", "image", builder.op("Sigmoid", pooled), name="y"), IMAGE)
    _compare(graph, lambda x: half_rule(x, torch.sigmoid(x.mean((2, 3), keepdim=True))))


def test_scaling_by_a_constant_is_not_a_gate(builder: Builder) -> None:
    graph = builder.graph(builder.op("Mul", "image", builder.constant(0.25), name="y"), IMAGE)
    for rule_set in RULE_SETS:
        g = torch.randn(2, *IMAGE)
        assert torch.equal(_gradient(graph, torch.randn(2, *IMAGE), rule_set, g), 0.25 * g)


def test_constants_shaped_by_the_image_are_not_data(builder: Builder) -> None:
    """A class token expanded to the batch reads the image's shape, never its pixels."""
    token = builder.op("Expand", builder.normal(1, 1, 1, 4), builder.op("Shape", "image"))
    graph = builder.graph(builder.op("Mul", "image", token, name="y"), IMAGE)
    assert _firings(graph) == {}


def _attention(b: Builder) -> Graph:
    x = b.op("LayerNormalization", "image", b.constant(np.ones(4)), axis=-1, epsilon=1e-3)
    q, k, v = (b.op("MatMul", x, b.normal(4, 4, name=f"w{n}"), name=n) for n in "qkv")
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2]))
    return b.graph(b.op("MatMul", b.op("Softmax", scores, axis=-1, name="pattern"), v, name="y"), IMAGE)


def _attend(b: Builder, stop: Callable[[Tensor], Tensor], scale: float) -> Callable[[Tensor], Tensor]:
    def divided(t: Tensor, factor: float) -> Tensor:
        return t * factor + (t * (1 - factor)).detach()

    def reference(x: Tensor) -> Tensor:
        x = ln_rule(x, torch.ones(4), torch.zeros(4), 1e-3)
        q, k, v = (x @ torch.from_numpy(b.initializers[f"w{n}"]) for n in "qkv")
        pattern = stop((divided(q, scale**2) @ divided(k, scale**2).mT).softmax(-1))
        return pattern @ divided(v, scale)

    return reference


def test_relp_leaves_attention_alone(builder: Builder) -> None:
    _compare_attention(builder, "relp", lambda pattern: pattern, 1.0)


def test_relp_ah_stops_at_the_softmax(builder: Builder) -> None:
    _compare_attention(builder, "relp-ah", torch.detach, 1.0)


def test_attnlrp_quarters_query_and_key_and_halves_value(builder: Builder) -> None:
    _compare_attention(builder, "attnlrp", lambda pattern: pattern, 0.5)


def _compare_attention(b: Builder, rule_set: str, stop: Callable[[Tensor], Tensor], scale: float) -> None:
    _compare(_attention(b), _attend(b, stop, scale), rule_set)


def test_relp_ah_gives_the_pattern_its_gradient_and_the_query_none(builder: Builder) -> None:
    """Patching an attention map has an effect, so its relevance is not zero; what made the map is cut off."""
    graph, x, seen = _attention(builder), torch.randn(2, *IMAGE), dict[str, Tensor]()
    executor = Executor(graph, overrides=RULE_SETS["relp-ah"].bind(graph, 2).overrides)

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda tensor: tensor.retain_grad() or seen.update({name: tensor})

    outputs = executor.run(Examples.images(x.requires_grad_()), {n: keep(n) for n in ("q", "pattern", "v")})
    logits_of(outputs).sum().backward()
    assert seen["pattern"].grad is not None and seen["pattern"].grad.abs().min() > 0
    assert seen["v"].grad is not None
    assert seen["q"].grad is None or not seen["q"].grad.any()


def test_on_a_linear_network_the_gradient_rules_are_the_gradient(builder: Builder) -> None:
    b = builder
    x = b.op("Conv", "image", b.normal(6, 2, 2, 2), b.normal(6), kernel_shape=[2, 2])
    x = b.op("Reshape", x, b.constant([0, 6, -1]))
    x = b.op("Add", b.linear(x, 6, 6, "a"), x)
    graph = b.graph(b.op("ReduceMean", b.linear(x, 6, 3, "b"), b.constant([1]), keepdims=0, name="y"), IMAGE)
    images, g = torch.randn(3, *IMAGE), torch.randn(3, 3)
    plain = _gradient(graph, images, "gradient", g)
    for rule_set in ("relp", "relp-ah", "attnlrp"):
        assert torch.equal(_gradient(graph, images, rule_set, g), plain)
    assert not torch.allclose(_gradient(graph, images, "deep-taylor", g), plain)  # z+ is no gradient even here
