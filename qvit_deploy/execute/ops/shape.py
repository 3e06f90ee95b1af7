"""Operators that move, slice, join or describe tensors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op, runtime_ints

_TORCH_DTYPES = {
    ir.DataType.FLOAT: torch.float32, ir.DataType.DOUBLE: torch.float64, ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16, ir.DataType.INT64: torch.int64, ir.DataType.INT32: torch.int32,
    ir.DataType.INT16: torch.int16, ir.DataType.INT8: torch.int8, ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
}  # fmt: skip


@op("Reshape")
def _reshape(view: NodeView) -> OpFn:
    fixed = view.ints(1)
    allow_zero = bool(view.attr("allowzero", 0))

    def reshape(x: Tensor, shape: Tensor) -> Tensor:
        target = fixed if fixed is not None else runtime_ints(shape)
        if not allow_zero:
            target = [x.shape[i] if d == 0 else d for i, d in enumerate(target)]
        return x.reshape(target)

    return reshape


@op("Flatten")
def _flatten(view: NodeView) -> OpFn:
    axis = view.attr("axis", 1)
    return lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)


@op("Transpose")
def _transpose(view: NodeView) -> OpFn:
    perm = view.attr("perm")
    return lambda x: x.permute(perm if perm is not None else tuple(reversed(range(x.ndim))))


@op("Squeeze")
def _squeeze(view: NodeView) -> OpFn:
    fixed = view.ints(1)

    def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        dims = fixed if fixed is not None else (runtime_ints(axes) if axes is not None else None)
        return x.squeeze() if dims is None else x.squeeze(tuple(dims))

    return squeeze


@op("Unsqueeze")
def _unsqueeze(view: NodeView) -> OpFn:
    fixed = view.ints(1)

    def unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
        dims = fixed if fixed is not None else runtime_ints(axes)
        rank = x.ndim + len(dims)
        for dim in sorted(d % rank for d in dims):
            x = x.unsqueeze(dim)
        return x

    return unsqueeze


@op("Concat")
def _concat(view: NodeView) -> OpFn:
    axis = view.attr("axis")
    return lambda *xs: torch.cat(xs, axis)


@op("Expand")
def _expand(view: NodeView) -> OpFn:
    fixed = view.ints(1)

    def expand(x: Tensor, shape: Tensor) -> Tensor:
        target = fixed if fixed is not None else runtime_ints(shape)
        return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(target)))

    return expand


@op("Tile")
def _tile(view: NodeView) -> OpFn:
    fixed = view.ints(1)
    return lambda x, repeats: x.repeat(fixed if fixed is not None else runtime_ints(repeats))


@op("Pad")
def _pad(view: NodeView) -> OpFn:
    mode = view.attr("mode", "constant")
    torch_mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}.get(mode)
    fixed, dims = view.ints(1), view.ints(3)
    if torch_mode is None:
        raise view.unsupported(f"padding mode {mode!r} is unknown")

    def pad(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        amounts = fixed if fixed is not None else runtime_ints(pads)
        half = len(amounts) // 2
        begin, end = [0] * x.ndim, [0] * x.ndim
        along = dims if dims is not None else (runtime_ints(axes) if axes is not None else range(half))
        for i, dim in enumerate(along):
            begin[dim % x.ndim], end[dim % x.ndim] = amounts[i], amounts[half + i]
        flat = [n for dim in reversed(range(x.ndim)) for n in (begin[dim], end[dim])]
        if torch_mode != "constant":
            while len(flat) > 2 and flat[-2:] == [0, 0] and len(flat) // 2 > x.ndim - 2:
                flat = flat[:-2]
            return F.pad(x, flat, torch_mode)
        return F.pad(x, flat, value=float(value) if value is not None else 0.0)

    return pad


@op("Cast")
def _cast(view: NodeView) -> OpFn:
    dtype = _TORCH_DTYPES.get(ir.DataType(view.attr("to")))
    if dtype is None:
        raise view.unsupported(f"cannot cast to {ir.DataType(view.attr('to')).name}")
    return lambda x: x.to(dtype)


@op("Shape")
def _shape(view: NodeView) -> OpFn:
    start, end = view.attr("start", 0), view.attr("end")
    return lambda x: torch.tensor(list(x.shape)[start:end], dtype=torch.int64)


@op("Size")
def _size(_: NodeView) -> OpFn:
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


@op("ConstantOfShape")
def _constant_of_shape(view: NodeView) -> OpFn:
    value = view.attr("value")
    fill = torch.from_numpy(np.array(value.numpy())) if value is not None else torch.zeros(1)
    return lambda shape: fill.reshape(()).expand(runtime_ints(shape)).clone()


@op("Range")
def _range(_: NodeView) -> OpFn:
    return lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@op("DepthToSpace")
def _depth_to_space(view: NodeView) -> OpFn:
    block, mode = view.attr("blocksize"), view.attr("mode", "DCR")

    def run(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        depth = c // block**2
        if mode == "CRD":
            return F.pixel_shuffle(x, block)
        x = x.reshape(b, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(b, depth, h * block, w * block)

    return run


@op("SpaceToDepth")
def _space_to_depth(view: NodeView) -> OpFn:
    block = view.attr("blocksize")

    def run(x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(b, c * block**2, h // block, w // block)

    return run


@op("Col2Im")
def _col2im(view: NodeView) -> OpFn:
    sizes, kernel = view.ints(1), view.ints(2)
    if sizes is None or kernel is None or len(sizes) != 2:
        raise view.unsupported("only two spatial axes of constant sizes run")
    pads, strides, dilations = (
        view.attr("pads", [0] * 4),
        view.attr("strides", [1, 1]),
        view.attr("dilations", [1, 1]),
    )
    padded = (sizes[0] + pads[0] + pads[2], sizes[1] + pads[1] + pads[3])

    def col2im(x: Tensor, *_: Tensor) -> Tensor:
        maps = F.fold(x, padded, tuple(kernel), tuple(dilations), 0, tuple(strides))
        return maps[:, :, pads[0] : pads[0] + sizes[0], pads[1] : pads[1] + sizes[1]]

    return col2im


@op("EyeLike")
def _eye_like(view: NodeView) -> OpFn:
    diagonal, dtype = view.attr("k", 0), view.attr("dtype")
    to = None if dtype is None else _TORCH_DTYPES[ir.DataType(dtype)]

    def eye_like(x: Tensor) -> Tensor:
        rows, columns = x.shape
        ones = torch.ones(rows, columns, dtype=to or x.dtype, device=x.device)
        return ones.triu(diagonal).tril(diagonal)

    return eye_like
