"""QuantizeLinear and DequantizeLinear with a straight-through backward.

Codes are carried as float32 holding exact integers: an int8 tensor would cut the gradient. The forward value is
that of the integer operator; backward is the identity inside the clip range and zero outside (Bengio et al. 2013).
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op

_CODE_RANGE = {
    ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15), ir.DataType.INT8: (-128, 127),
    ir.DataType.UINT8: (0, 255), ir.DataType.INT16: (-32768, 32767), ir.DataType.UINT16: (0, 65535),
}  # fmt: skip


class _Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        codes = torch.round(x / scale) + zero
        ctx.save_for_backward((codes >= low) & (codes <= high), scale)
        return codes.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        inside, scale = ctx.saved_tensors
        return grad * inside / scale, None, None, None, None


def _along(axis: int, x: Tensor, parameter: Tensor) -> Tensor:
    """Returns a per-channel parameter [C] shaped to broadcast along `axis` of x; scalars pass."""
    parameter = parameter.to(torch.float32)
    if parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis % x.ndim] = -1
    return parameter.reshape(shape)


@op("QuantizeLinear")
def _quantize(view: NodeView) -> OpFn:
    axis = view.attr("axis", 1)
    zero_input = view.node.inputs[2] if view.has(2) else None
    dtype = zero_input.dtype if zero_input is not None else None
    dtype = dtype or ir.DataType(view.attr("output_dtype", 0) or ir.DataType.UINT8)
    if dtype not in _CODE_RANGE:
        raise view.unsupported(f"cannot quantize to {dtype.name}")
    low, high = _CODE_RANGE[dtype]
    if view.attr("block_size", 0):
        raise view.unsupported("block-wise quantization is not supported")

    def quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        offset = _along(axis, x, zero if zero is not None else torch.zeros((), device=x.device))
        return _Quantize.apply(x, _along(axis, x, scale), offset, low, high)

    return quantize


@op("DequantizeLinear")
def _dequantize(view: NodeView) -> OpFn:
    axis = view.attr("axis", 1)
    if view.attr("block_size", 0):
        raise view.unsupported("block-wise quantization is not supported")

    def dequantize(codes: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        values = codes.to(torch.float32)
        if zero is not None:
            values = values - _along(axis, values, zero)
        return values * _along(axis, values, scale)

    return dequantize
