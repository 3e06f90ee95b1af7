"""Rules: which nodes a rule matches in a graph, and the function that replaces their operator.

A rule is a small value. Its replacement computes the operator's own forward value, bit for bit, and changes only the
backward pass (formulas and their sources: `backward.py`). Rule sets combine them in `rule_sets.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from qvit_deploy.execute.executor import merged_bias
from qvit_deploy.execute.ops import NodeView, OpFn, build
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.op_traits import ACTIVATIONS, MOMENT_NORMS, NORMS, slope_at_zero
from qvit_deploy.graph.query import bias_of
from qvit_deploy.relevance import backward
from qvit_deploy.relevance.dataflow import (
    Dataflow,
    elementwise_source,
    is_linear_map,
    reads_image,
    reduced,
    scaled_source,
)

Tensor = torch.Tensor
Replacements = Mapping[ir.Node, OpFn]


@dataclass(frozen=True)
class Context:
    """What a replacement may depend on besides its node: the dependence on the image, and the images per run."""

    flow: Dataflow
    batch: int


@dataclass(frozen=True)
class Rule:
    """A rule: which nodes it matches, and what replaces them.

    Attributes:
        name: the name its firings are counted under; variants of one rule share it.
        matches: whether the rule applies to a node.
        replace: node -> the functions that replace its operator (and, for a linear layer, that of its bias).
        freezes: the matched node passes no gradient back.
        evidence: operators whose presence means the rule should have something to do.
    """

    name: str
    matches: Callable[[ir.Node, Dataflow], bool]
    replace: Callable[[ir.Node, Context], Replacements]
    freezes: bool = False
    evidence: frozenset[str] = frozenset()


SHORTEST = 1e-12
"""A vector's length as `torch.nn.functional.normalize` floors it."""


def _is(*op_types: str) -> Callable[[ir.Node, Dataflow], bool]:
    return _any_of(frozenset(op_types))


def _any_of(op_types: Set[str]) -> Callable[[ir.Node, Dataflow], bool]:
    return lambda node, flow: node.op_type in op_types and flow.is_used(node)


def _products(*op_types: str) -> Callable[[ir.Node, Dataflow], bool]:
    """Matches nodes of these types with both operands live: attention products, gates, residual sums."""
    return lambda node, flow: node.op_type in op_types and flow.is_used(node) and flow.data_inputs(node) == [0, 1]


def _is_skip(node: ir.Node, flow: Dataflow) -> bool:
    return _products("Add")(node, flow) and not is_linear_map(node, flow)


def _stop(node: ir.Node, _: Context) -> Replacements:
    return {node: backward.stopped(build(node))}


def _half(node: ir.Node, _: Context) -> Replacements:
    return {node: backward.halved(build(node))}


def _layer_norm(node: ir.Node, _: Context) -> Replacements:
    view = NodeView(node)
    axis, eps = view.attr("axis", -1), view.attr("epsilon", 1e-5)

    def rule(g: Tensor, _: Tensor, x: Tensor, scale: Tensor, *bias: Tensor) -> tuple[Tensor | None, ...]:
        dims = tuple(range(axis % x.ndim, x.ndim))
        return backward.layer_norm(g, x, scale, dims, eps), None, *(None for _ in bias)

    return {node: backward.with_backward(build(node), rule)}


def _length_norm(node: ir.Node, _: Context) -> Replacements:
    """Returns x / |x| with the length constant, the LN-rule of a norm without mean (Swin v2's cosine attention)."""
    view = NodeView(node)
    axis, p = view.attr("axis", -1), view.attr("p", 2)

    def rule(g: Tensor, _: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        return (g / x.norm(p, axis, keepdim=True).clamp(min=SHORTEST),)

    return {node: backward.with_backward(build(node), rule)}


def _channel_norm(node: ir.Node, _: Context) -> Replacements:
    """Returns the LN-rule of an InstanceNormalization or GroupNormalization: moments of each channel, or group of
    channels, over its places."""
    view = NodeView(node)
    eps, groups = view.attr("epsilon", 1e-5), view.attr("num_groups")

    def rule(g: Tensor, _: Tensor, x: Tensor, scale: Tensor, __: Tensor) -> tuple[Tensor | None, ...]:
        per_channel = scale.reshape(-1, *(1,) * (x.ndim - 2)).expand_as(x)
        grouped = (x.shape[0], groups or x.shape[1], -1)
        own_g, own_x, own_scale = (t.reshape(grouped) for t in (g, x, per_channel))
        return backward.layer_norm(own_g, own_x, own_scale, (2,), eps).reshape(x.shape), None, None

    return {node: backward.with_backward(build(node), rule)}


def _activation(node: ir.Node, _: Context) -> Replacements:
    slope = slope_at_zero(node)

    def rule(g: Tensor, y: Tensor, x: Tensor, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        return backward.secant(g, y, x, slope), *(None for _ in slopes)

    return {node: backward.with_backward(build(node), rule)}


def _gate_operand(node: ir.Node, flow: Dataflow) -> int | None:
    """Returns the index of the factor in x * phi(x) when `node` is an activation written as a product, else None."""
    if node.op_type != "Mul" or not flow.is_used(node) or len(flow.data_inputs(node)) != 2:
        return None
    for factor in (1, 0):
        x = scaled_source(node.inputs[1 - factor], flow)
        is_factor = node.inputs[factor] is not x and scaled_source(node.inputs[factor], flow) is not x
        if is_factor and elementwise_source(node.inputs[factor], flow, x):
            return factor
    return None


def _self_gate(node: ir.Node, context: Context) -> Replacements:
    factor, own = _gate_operand(node, context.flow), build(node)

    def run(a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = own(a, b.detach()) if factor == 1 else own(a.detach(), b)
        return result

    return {node: run}


def _pass(node: ir.Node, _: Context) -> Replacements:
    def rule(g: Tensor, y: Tensor, x: Tensor, *rest: Tensor) -> tuple[Tensor | None, ...]:
        return backward.passed(g, y, x), *(None for _ in rest)

    return {node: backward.with_backward(build(node), rule)}


def _residual(node: ir.Node, context: Context) -> Replacements:
    batch = context.batch

    def rule(g: Tensor, _: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor | None, ...]:
        return backward.residual(g, a, b, batch)

    return {node: backward.with_backward(build(node), rule)}


class _Signed:
    """Computes W+ and W- of a constant weight at the first backward pass and caches them."""

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._parts: tuple[Tensor, Tensor] | None = None

    def __call__(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self._parts is None or self._weight is not weight:
            self._weight, self._parts = weight, (weight.clamp(min=0), weight.clamp(max=0))
        return self._parts


def _linear(node: ir.Node, context: Context) -> Replacements:
    """Applies z+ to `x @ w`, with the bias that follows inside y."""
    own, signed, add = build(node), _Signed(), bias_of(node)
    values = None if add is None else constant(add.inputs[1])
    bias = None if values is None else torch.from_numpy(values.astype(np.float32))
    on_pixels = reads_image(node.inputs[0], context.flow)

    def rule(g: Tensor, y: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor | None, ...]:
        if on_pixels:
            return backward.z_box(g, y, x, *(partial(_times, part) for part in (w, *signed(w)))), None
        return backward.z_plus(g, y, x, *signed(w)), None

    if add is None or bias is None:
        return {node: backward.with_backward(own, rule)}
    if merged_bias(node) is add:
        with_bias = partial(_affine, bias)
        return {node: backward.with_backward(with_bias, rule), add: lambda y, _: y}

    # Product and bias are two kernels (the weight is dequantized at run time).
    def split_rule(g: Tensor, y: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor | None, ...]:
        return rule(g, y + bias.to(y), x, w)

    return {node: backward.with_backward(own, split_rule)}


def _affine(bias: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return F.linear(x, w.t(), bias.to(x))


def _times(weight: Tensor, x: Tensor) -> Tensor:
    return x @ weight


def _linear_left(node: ir.Node, _: Context) -> Replacements:
    """Applies z+ to `w @ x`, the transpose of `x^T @ w^T`."""
    signed = _Signed()

    def rule(g: Tensor, y: Tensor, w: Tensor, x: Tensor) -> tuple[Tensor | None, ...]:
        plus, minus = signed(w)
        return None, backward.z_plus(g.mT, y.mT, x.mT, plus.mT, minus.mT).mT

    return {node: backward.with_backward(build(node), rule)}


def _conv(node: ir.Node, context: Context) -> Replacements:
    own, signed = build(node), _Signed()
    on_pixels = reads_image(node.inputs[0], context.flow)

    def rule(g: Tensor, y: Tensor, x: Tensor, w: Tensor, *bias: Tensor) -> tuple[Tensor | None, ...]:
        plus, minus = (partial(_apply_weight, own, part) for part in signed(w))
        if on_pixels:
            g_x = backward.z_box(g, y, x, partial(_apply_weight, own, w), plus, minus)
        else:
            g_x = backward.z_plus_linear_map(g, y, x, plus, minus)
        return g_x, None, *(None for _ in bias)

    return {node: backward.with_backward(own, rule)}


def _apply_weight(own: OpFn, weight: Tensor, x: Tensor) -> Tensor:
    result: Tensor = own(x, weight)
    return result


def _weighted(op_type: str, data: int) -> Callable[[ir.Node, Dataflow], bool]:
    """Matches nodes whose only live operand is number `data`: the layers with weights."""
    return lambda node, flow: node.op_type == op_type and flow.is_used(node) and flow.data_inputs(node) == [data]


def _is_norm_size(node: ir.Node, flow: Dataflow) -> bool:
    """Tells whether a node is the denominator of a decomposed norm: the root of a mean of squares, or the length of a
    vector."""
    if not flow.is_used(node):
        return False
    is_root = node.op_type == "Sqrt"
    if node.op_type == "Pow":
        exponent = constant(node.inputs[1])
        is_root = exponent is not None and exponent.size == 1 and abs(float(exponent.item())) == 0.5
    return node.op_type == "ReduceL2" or (is_root and reduced(node.inputs[0], flow))


_NORMS = frozenset({*NORMS, "Sqrt", "ReduceL2"})  # a decomposed norm ends in a root or a length
_ACTIVATIONS = frozenset({*ACTIVATIONS, "Erf"})  # a Sigmoid may be an activation or a gate

# What follows are the rules themselves; `rule_sets.py` composes them.
NORM_SIZE = Rule("norm", _is_norm_size, _stop, freezes=True, evidence=_NORMS)
SOFTMAX_STOP = Rule("softmax", _is("Softmax"), _stop, freezes=True, evidence=frozenset({"Softmax"}))
LAYER_NORM = Rule("norm", _is("LayerNormalization"), _layer_norm, evidence=_NORMS)
CHANNEL_NORM = Rule("norm", _is("InstanceNormalization", "GroupNormalization"), _channel_norm, evidence=_NORMS)
NORM_PASS = Rule("norm", _any_of(MOMENT_NORMS | {"BatchNormalization"}), _pass, evidence=_NORMS)
SOFTMAX_PASS = Rule("softmax", _is("Softmax"), _pass, evidence=frozenset({"Softmax"}))
LENGTH_NORM = Rule("norm", _is("LpNormalization"), _length_norm, evidence=_NORMS)
ACTIVATION = Rule("activation", _any_of(ACTIVATIONS), _activation, evidence=_ACTIVATIONS)
SELF_GATE = Rule("activation", lambda n, f: _gate_operand(n, f) is not None, _self_gate, evidence=_ACTIVATIONS)
HALF_GATE = Rule("gate", _products("Mul"), _half)
HALF_MATMUL = Rule("matmul", _products("MatMul"), _half, evidence=frozenset({"Softmax"}))
RESIDUAL = Rule("residual", _is_skip, _residual)
Z_PLUS_LINEAR = Rule("linear", _weighted("MatMul", 0), _linear)
Z_PLUS_LINEAR_LEFT = Rule("linear", _weighted("MatMul", 1), _linear_left)
Z_PLUS_CONV = Rule("conv", _weighted("Conv", 0), _conv, evidence=frozenset({"Conv"}))
Z_PLUS_CONV_TRANSPOSE = Rule("conv", _weighted("ConvTranspose", 0), _conv, evidence=frozenset({"ConvTranspose"}))
