"""Matrix products, convolutions, normalisations and pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op


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


@op("Softmax")
def _softmax(view: NodeView) -> OpFn:
    axis = view.attr("axis", -1)
    return lambda x: torch.softmax(x, axis)


@op("LogSoftmax")
def _log_softmax(view: NodeView) -> OpFn:
    axis = view.attr("axis", -1)
    return lambda x: torch.log_softmax(x, axis)


@op("LayerNormalization")
def _layer_norm(view: NodeView) -> OpFn:
    axis, eps = view.attr("axis", -1), view.attr("epsilon", 1e-5)

    def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, x.shape[axis % x.ndim :], scale, bias, eps)

    return layer_norm


@op("BatchNormalization")
def _batch_norm(view: NodeView) -> OpFn:
    eps = view.attr("epsilon", 1e-5)
    return lambda x, scale, bias, mean, var: F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps)


@op("InstanceNormalization")
def _instance_norm(view: NodeView) -> OpFn:
    eps = view.attr("epsilon", 1e-5)
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=eps)


@op("LpNormalization")
def _lp_norm(view: NodeView) -> OpFn:
    axis, p = view.attr("axis", -1), view.attr("p", 2)
    return lambda x: F.normalize(x, p=p, dim=axis)


def _pads(view: NodeView, spatial: int) -> list[int]:
    """Returns ONNX pads [begin..., end...] as torch's [last dim begin, last dim end, ...]."""
    if view.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise view.unsupported("auto_pad is not supported; export with explicit pads")
    pads = list(view.attr("pads", [0] * (2 * spatial)))
    return [p for dim in reversed(range(spatial)) for p in (pads[dim], pads[spatial + dim])]


@op("Conv")
def _conv(view: NodeView) -> OpFn:
    weight = view.node.inputs[1]
    assert weight is not None and weight.shape is not None
    spatial = len(weight.shape) - 2
    run = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial]
    pads = _pads(view, spatial)
    stride, dilation = view.attr("strides", [1] * spatial), view.attr("dilations", [1] * spatial)
    groups = view.attr("group", 1)

    def conv(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        if any(pads):
            x = F.pad(x, pads)
        return run(x, w, b, tuple(stride), 0, tuple(dilation), groups)

    return conv


@op("GlobalAveragePool")
def _global_average_pool(_: NodeView) -> OpFn:
    return lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)


@op("AveragePool", "MaxPool")
def _pool(view: NodeView) -> OpFn:
    kernel = tuple(view.attr("kernel_shape"))
    if len(kernel) != 2 or view.attr("ceil_mode", 0) or len(view.node.outputs) > 1:
        raise view.unsupported("only 2-D pooling without ceil_mode or index output is supported")
    stride, pads = tuple(view.attr("strides", [1, 1])), _pads(view, 2)
    dilation = tuple(view.attr("dilations", [1, 1]))
    if view.node.op_type == "MaxPool":
        return lambda x: F.max_pool2d(
            F.pad(x, pads, value=float("-inf")) if any(pads) else x, kernel, stride, 0, dilation
        )
    if any(d != 1 for d in dilation):
        raise view.unsupported("dilated average pooling is not supported")
    if any(pads) and not view.attr("count_include_pad", 0):
        raise view.unsupported("padded average pooling must set count_include_pad")
    return lambda x: F.avg_pool2d(F.pad(x, pads) if any(pads) else x, kernel, stride)
