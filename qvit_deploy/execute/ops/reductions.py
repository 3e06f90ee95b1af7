"""Operators that make one number of many along an axis: sums, extremes and where they are."""

from __future__ import annotations

from collections.abc import Callable

import torch

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op, runtime_ints


def _l1(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    return x.abs().sum(dims, keepdim=keep)


def _l2(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, 2, dims, keep)  # whose gradient at 0 is 0, not NaN
    return norm


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
    "ReduceLogSum": lambda x, dims, keep: x.sum(dims, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, dims, keep: x.logsumexp(dims, keepdim=keep),
}


_FRACTIONS = ("ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")
"""Reductions of integers whose results are no integers; ONNX Runtime drops the fraction."""


@op(*_REDUCTIONS)
def _reduce(view: NodeView) -> OpFn:
    kind = view.node.op_type
    keep, each_alone = bool(view.attr("keepdims", 1)), bool(view.attr("noop_with_empty_axes", 0))
    fixed = view.ints(1) if view.has(1) else view.attr("axes")

    def reduce(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        if kind in _FRACTIONS and not x.is_floating_point():
            return _REDUCTIONS[kind](x.double(), dims, keep).trunc().to(x.dtype)
        return _REDUCTIONS[kind](x, dims, keep)

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        dims = list(fixed) if fixed is not None else (runtime_ints(axes) if axes is not None else [])
        if not dims and each_alone:  # every element is reduced by itself: to its magnitude, its square, ...
            return reduce(x.unsqueeze(-1), [-1], False)
        return reduce(x, dims or list(range(x.ndim)), keep)

    return run


@op("ArgMax", "ArgMin")
def _arg_extremum(view: NodeView) -> OpFn:
    find = torch.argmax if view.node.op_type == "ArgMax" else torch.argmin
    axis, keep, last = view.attr("axis", 0), bool(view.attr("keepdims", 1)), bool(view.attr("select_last_index", 0))

    def arg_extremum(x: Tensor) -> Tensor:
        if last:
            return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdim=keep)
        return find(x, axis, keepdim=keep)

    return arg_extremum


@op("CumSum")
def _cumulative_sum(view: NodeView) -> OpFn:
    fixed, exclusive, reverse = view.ints(1), bool(view.attr("exclusive", 0)), bool(view.attr("reverse", 0))

    def cumulative_sum(x: Tensor, axis: Tensor) -> Tensor:
        (dim,) = fixed if fixed is not None else runtime_ints(axis)
        x = x.flip(dim) if reverse else x
        sums = x.cumsum(dim).to(x.dtype)
        sums = sums - x if exclusive and not x.is_floating_point() else sums
        if exclusive and x.is_floating_point():  # a difference would round
            sums = torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), sums.narrow(dim, 0, x.shape[dim] - 1)], dim)
        return sums.flip(dim) if reverse else sums

    return cumulative_sum
