"""Arithmetic, comparisons and functions of single numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op, ops_without_attributes

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil, "Cos": torch.cos,
    "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "Identity": lambda x: x,
    "IsNaN": torch.isnan, "Log": torch.log, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Round": torch.round, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh,
    "Sqrt": torch.sqrt, "Tan": torch.tan,
}  # fmt: skip

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Equal": torch.eq,
    "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip

ops_without_attributes(_UNARY)
ops_without_attributes(_BINARY)


@op("Div")
def _div(_: NodeView) -> OpFn:
    def div(a: Tensor, b: Tensor) -> Tensor:
        if a.is_floating_point() or b.is_floating_point():
            return a / b
        return torch.div(a, b, rounding_mode="trunc")  # ONNX integer division truncates

    return div


@op("Pow")
def _pow(_: NodeView) -> OpFn:
    return lambda base, exponent: torch.pow(base, exponent).to(base.dtype)


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


@op("Mean")
def _mean(_: NodeView) -> OpFn:
    return lambda *operands: sum(operands[1:], operands[0]) / len(operands)


@op("IsInf")
def _is_inf(view: NodeView) -> OpFn:
    negative, positive = view.attr("detect_negative", 1), view.attr("detect_positive", 1)
    if negative and positive:
        return torch.isinf
    return torch.isneginf if negative else torch.isposinf if positive else torch.zeros_like


@op("BitShift")
def _bit_shift(view: NodeView) -> OpFn:
    shift = torch.bitwise_left_shift if view.attr("direction") == "LEFT" else torch.bitwise_right_shift
    return shift


@op("Clip")
def _clip(_: NodeView) -> OpFn:
    def clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        return x if low is None and high is None else torch.clamp(x, low, high)

    return clip


@op("Where")
def _where(_: NodeView) -> OpFn:
    return torch.where
