"""Operators that pick values by position, put values in positions, or sort them."""

from __future__ import annotations

import torch

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op, runtime_ints


@op("Split")
def _split(view: NodeView) -> OpFn:
    axis, pieces, fixed = view.attr("axis", 0), len(view.node.outputs), view.ints(1)

    def split(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        if fixed is not None or sizes is not None:
            return x.split(fixed if fixed is not None else runtime_ints(sizes), axis)  # type: ignore[arg-type]
        return x.split(-(-x.shape[axis] // pieces), axis)

    return split


@op("Slice")
def _slice(view: NodeView) -> OpFn:
    fixed = [view.ints(i) for i in range(1, 5)]

    def take(
        x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
    ) -> Tensor:
        given = (starts, ends, axes, steps)
        begin, end, dims, stride = (
            fixed[i] if fixed[i] is not None else (runtime_ints(g) if g is not None else None)
            for i, g in enumerate(given)
        )
        assert begin is not None and end is not None
        for i, first in enumerate(begin):
            dim, step = dims[i] if dims else i, stride[i] if stride else 1
            size, last = x.shape[dim], end[i]
            if step > 0:
                index = [slice(None)] * x.ndim
                # ONNX writes "to the end" as INT64_MAX, which torch truncates with a warning.
                index[dim % x.ndim] = slice(*slice(first, last, step).indices(size))
                x = x[tuple(index)]
            else:
                rows = range(size)[slice(first, None if last < -size else last, step)]
                x = x.index_select(dim, torch.tensor(list(rows), device=x.device))
        return x

    return take


@op("Gather")
def _gather(view: NodeView) -> OpFn:
    axis = view.attr("axis", 0)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        dim = axis % x.ndim
        if indices.ndim == 0:
            return x.select(dim, int(indices))
        rows = (indices.to(x.device).long() % x.shape[dim]).reshape(-1)
        picked = x.index_select(dim, rows)
        return picked.reshape(*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])

    return gather


@op("GatherElements")
def _gather_elements(view: NodeView) -> OpFn:
    axis = view.attr("axis", 0)
    return lambda x, indices: torch.gather(x, axis, indices.to(x.device).long() % x.shape[axis])


@op("ScatterND")
def _scatter_nd(view: NodeView) -> OpFn:
    reduction = view.attr("reduction", "none")
    if reduction not in ("none", "add"):
        raise view.unsupported(f"reduction {reduction!r} is not supported; 'none' and 'add' are")

    def scatter(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        where = tuple(indices.to(x.device).long().movedim(-1, 0))
        return x.index_put(where, updates, accumulate=reduction == "add")

    return scatter


@op("ScatterElements")
def _scatter_elements(view: NodeView) -> OpFn:
    axis, reduction = view.attr("axis", 0), view.attr("reduction", "none")
    names = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    if reduction not in names:
        raise view.unsupported(f"reduction {reduction!r} is unknown")

    def scatter(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        where = indices.to(x.device).long() % x.shape[axis]
        name = names[reduction]
        return x.scatter(axis, where, updates) if name is None else x.scatter_reduce(axis, where, updates, name)

    return scatter


@op("GatherND")
def _gather_nd(view: NodeView) -> OpFn:
    batch_dims = view.attr("batch_dims", 0)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        where = indices.to(x.device).long()
        shared = [torch.arange(n, device=x.device) for n in x.shape[:batch_dims]]
        rank = where.ndim - 1  # of each index tensor
        rows = [n.reshape(-1, *(1,) * (rank - 1 - i)) for i, n in enumerate(shared)]
        return x[tuple([*rows, *where.movedim(-1, 0)])]

    return gather


@op("OneHot")
def _one_hot(view: NodeView) -> OpFn:
    axis = view.attr("axis", -1)

    def one_hot(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        (count,) = runtime_ints(depth)
        off, on = values
        places = torch.arange(count, device=indices.device)
        where = indices.long().unsqueeze(-1) % count == places
        inside = (indices >= -count) & (indices < count)
        hot = torch.where(where & inside.unsqueeze(-1), on.to(indices.device), off.to(indices.device))
        return hot.movedim(-1, axis)

    return one_hot


@op("Trilu")
def _trilu(view: NodeView) -> OpFn:
    keep = torch.triu if view.attr("upper", 1) else torch.tril
    return lambda x, k=None: keep(x, 0 if k is None else int(k))


@op("TopK")
def _top_k(view: NodeView) -> OpFn:
    axis, largest = view.attr("axis", -1), bool(view.attr("largest", 1))

    def top_k(x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        (count,) = runtime_ints(k)
        # Of equal values the one in front comes first, which torch.topk does not promise.
        values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)

    return top_k


@op("ReverseSequence")
def _reverse_sequence(view: NodeView) -> OpFn:
    batch_axis, time_axis = view.attr("batch_axis", 1), view.attr("time_axis", 0)

    def reverse(x: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.arange(x.shape[time_axis], device=x.device)
        ends = lengths.to(x.device).long().unsqueeze(-1)
        order = torch.where(steps < ends, ends - 1 - steps, steps)  # [batch, time]
        shape = [1] * x.ndim
        shape[batch_axis], shape[time_axis] = x.shape[batch_axis], x.shape[time_axis]
        order = order if batch_axis < time_axis else order.mT
        return x.gather(time_axis, order.reshape(shape).expand_as(x))

    return reverse
