"""Matrix products and convolutions."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op
from qvit_deploy.execute.ops.windows import Windows, torch_pads

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@op("MatMul")
def _matmul(_: NodeView) -> OpFn:
    return torch.matmul


@op("Gemm")
def _gemm(view: NodeView) -> OpFn:
    alpha, beta = view.attr("alpha", 1.0), view.attr("beta", 1.0)
    trans_a, trans_b = view.attr("transA", 0), view.attr("transB", 0)

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        y = alpha * ((a.T if trans_a else a) @ (b.T if trans_b else b))
        return y if c is None else y + beta * c

    return gemm


@op("Einsum")
def _einsum(view: NodeView) -> OpFn:
    equation = view.attr("equation")
    return lambda *xs: torch.einsum(equation, *xs)


def _windows(view: NodeView) -> Windows:
    weight = view.node.inputs[1]
    assert weight is not None and weight.shape is not None
    kernel = weight.shape[2:]
    if len(kernel) not in _CONV:
        raise view.unsupported(f"it has {len(kernel)} spatial axes; one to three run")
    return Windows.of(view, [int(k) for k in kernel])  # type: ignore[arg-type]


@op("Conv")
def _conv(view: NodeView) -> OpFn:
    windows, groups = _windows(view), view.attr("group", 1)
    run = _CONV[len(windows.kernel)]

    def conv(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        pads = torch_pads(windows.padding(x.shape[2:]))
        if any(pads):
            x = F.pad(x, pads)
        return run(x, w, b, windows.strides, 0, windows.dilations, groups)

    return conv


@op("ConvTranspose")
def _conv_transpose(view: NodeView) -> OpFn:
    """The full transposed convolution, whose ends are cut off (or, where the output is to be longer, filled)."""
    windows, groups = _windows(view), view.attr("group", 1)
    spatial = len(windows.kernel)
    run = _CONV_TRANSPOSE[spatial]
    longer, wanted = view.attr("output_padding", [0] * spatial), view.attr("output_shape")
    # An odd element is cut off in front, unless auto_pad is SAME_UPPER (ONNX).
    windows = replace(windows, upper=view.attr("auto_pad", "NOTSET") == "SAME_UPPER")

    def cuts(sizes: torch.Size) -> list[tuple[int, int]]:
        full = [
            (size - 1) * stride + extent + more
            for size, stride, extent, more in zip(sizes, windows.strides, windows.extents, longer, strict=True)
        ]
        if wanted is not None:
            return [windows.split(n - out) for n, out in zip(full, wanted[-spatial:], strict=True)]
        if windows.pads is not None:
            return list(windows.pads)
        same = (size * stride for size, stride in zip(sizes, windows.strides, strict=True))
        return [windows.split(max(n - out, 0)) for n, out in zip(full, same, strict=True)]

    def conv_transpose(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y = run(x, w, None, windows.strides, 0, 0, groups, windows.dilations)
        ends = zip(cuts(x.shape[2:]), longer, strict=True)
        pads = torch_pads([(-front, more - back) for (front, back), more in ends])
        y = F.pad(y, pads) if any(pads) else y
        return y if b is None else y + b.reshape(-1, *(1,) * spatial)

    return conv_transpose


@op("DeformConv")
def _deform_conv(view: NodeView) -> OpFn:
    from torchvision.ops import deform_conv2d  # type: ignore[import-untyped]  # what few models have; torchvision takes long to import

    windows = _windows(view)
    if len(windows.kernel) != 2 or windows.pads is None or any(front != back for front, back in windows.pads):
        raise view.unsupported("only two spatial axes with equal padding at both ends run")
    padding = [front for front, _ in windows.pads]

    def deform_conv(
        x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        result: Tensor = deform_conv2d(x, offset, w, b, windows.strides, padding, windows.dilations, mask)
        return result

    return deform_conv
