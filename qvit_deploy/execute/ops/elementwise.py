"""Elementwise, comparison and reduction operators."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import OPS, NodeView, OpFn, Tensor, op, runtime_ints

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "Identity": lambda x: x, "IsInf": torch.isinf, "IsNaN": torch.isnan,
    "Log": torch.log, "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal,
    "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Softplus": F.softplus, "Sqrt": torch.sqrt, "Tanh": torch.tanh,
}  # fmt: skip

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Pow": torch.pow, "Equal": torch.eq,
    "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "And": torch.logical_and, "Or": torch.logical_or,
}  # fmt: skip

for _name, _unary in _UNARY.items():
    OPS[_name] = lambda _view, fn=_unary: fn  # type: ignore[misc]
for _name, _binary in _BINARY.items():
    OPS[_name] = lambda _view, fn=_binary: fn  # type: ignore[misc]


@op("Div")
def _div(_: NodeView) -> OpFn:
    def div(a: Tensor, b: Tensor) -> Tensor:
        if a.is_floating_point() or b.is_floating_point():
            return a / b
        return torch.div(a, b, rounding_mode="trunc")  # ONNX integer division truncates

    return div


@op("Mod")
def _mod(view: NodeView) -> OpFn:
    return torch.fmod if view.attr("fmod", 0) else torch.remainder


@op("Min", "Max")
def _extremum(view: NodeView) -> OpFn:
    pick = torch.minimum if view.node.op_type == "Min" else torch.maximum

    def extremum(first: Tensor, *rest: Tensor) -> Tensor:
        for other in rest:
            first = pick(first, other)
        return first

    return extremum


@op("Sum")
def _sum(_: NodeView) -> OpFn:
    return lambda first, *rest: sum(rest, first)


@op("Clip")
def _clip(_: NodeView) -> OpFn:
    def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        return x if low is None and high is None else torch.clamp(x, low, high)

    return clip


@op("Where")
def _where(_: NodeView) -> OpFn:
    return torch.where


@op("LeakyRelu")
def _leaky_relu(view: NodeView) -> OpFn:
    slope = view.attr("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


@op("HardSigmoid")
def _hard_sigmoid(view: NodeView) -> OpFn:
    alpha, beta = view.attr("alpha", 0.2), view.attr("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@op("HardSwish")
def _hard_swish(_: NodeView) -> OpFn:
    return F.hardswish


@op("Gelu")
def _gelu(view: NodeView) -> OpFn:
    approximate = view.attr("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


def _l1(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.abs().sum(dims, keepdim=keep)


def _l2(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.square().sum(dims, keepdim=keep).sqrt()


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((d % x.ndim for d in dims), reverse=True):  # torch.prod takes one dimension at a time
        x = x.prod(dim, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceMean": lambda x, dims, keep: x.mean(dims, keepdim=keep),
    "ReduceSum": lambda x, dims, keep: x.sum(dims, keepdim=keep),
    "ReduceSumSquare": lambda x, dims, keep: x.square().sum(dims, keepdim=keep),
    "ReduceMax": lambda x, dims, keep: x.amax(dims, keepdim=keep),
    "ReduceMin": lambda x, dims, keep: x.amin(dims, keepdim=keep),
    "ReduceProd": _product,
    "ReduceL1": _l1,
    "ReduceL2": _l2,
}


@op(*_REDUCTIONS)
def _reduce(view: NodeView) -> OpFn:
    reduce = _REDUCTIONS[view.node.op_type]
    keep = bool(view.attr("keepdims", 1))
    if view.attr("noop_with_empty_axes", 0) and not view.has(1):
        return lambda x, *_: x
    fixed = view.ints(1) if view.has(1) else view.attr("axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        dims = list(fixed) if fixed is not None else (runtime_ints(axes) if axes is not None else [])
        return reduce(x, dims or list(range(x.ndim)), keep)

    return run
