"""Softmaxes and normalizations."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op


@op("Softmax")
def _softmax(view: NodeView) -> OpFn:
    axis = view.attr("axis", -1)
    return lambda x: torch.softmax(x, axis)


@op("LogSoftmax")
def _log_softmax(view: NodeView) -> OpFn:
    axis = view.attr("axis", -1)
    return lambda x: torch.log_softmax(x, axis)


@op("Hardmax")
def _hardmax(view: NodeView) -> OpFn:
    axis = view.attr("axis", -1)
    return lambda x: torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)


@op("LayerNormalization")
def _layer_norm(view: NodeView) -> OpFn:
    axis, eps = view.attr("axis", -1), view.attr("epsilon", 1e-5)
    if len(view.node.outputs) > 1:
        raise view.unsupported("its outputs of means and deviations are not computed; export the model for inference")

    def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = x.shape[axis % x.ndim :]
        bias = None if bias is None else bias.expand(shape)
        return F.layer_norm(x, shape, scale.expand(shape), bias, eps)

    return layer_norm


@op("BatchNormalization")
def _batch_norm(view: NodeView) -> OpFn:
    eps = view.attr("epsilon", 1e-5)
    if view.attr("training_mode", 0):
        raise view.unsupported("it is in training mode; export the model in evaluation mode")
    return lambda x, scale, bias, mean, var: F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps)


@op("InstanceNormalization")
def _instance_norm(view: NodeView) -> OpFn:
    eps = view.attr("epsilon", 1e-5)
    # F.instance_norm refuses maps of one element.
    return lambda x, scale, bias: torch.instance_norm(x, scale, bias, None, None, True, 0.0, eps, False)


@op("GroupNormalization")
def _group_norm(view: NodeView) -> OpFn:
    groups, eps = view.attr("num_groups"), view.attr("epsilon", 1e-5)
    return lambda x, scale, bias: torch.group_norm(x, groups, scale, bias, eps)  # F's refuses groups of one element


@op("LpNormalization")
def _lp_norm(view: NodeView) -> OpFn:
    axis, p = view.attr("axis", -1), view.attr("p", 2)
    return lambda x: F.normalize(x, p=p, dim=axis)


@op("LRN")
def _local_response_norm(view: NodeView) -> OpFn:
    """x / (bias + alpha / size * the sum of squares over `size` neighbouring channels) ** beta."""
    size, alpha = view.attr("size"), view.attr("alpha", 1e-4)
    beta, bias = view.attr("beta", 0.75), view.attr("bias", 1.0)
    front, back = (size - 1) // 2, size // 2

    def local_response_norm(x: Tensor) -> Tensor:
        squares = F.pad(x.square(), [0, 0] * (x.ndim - 2) + [front, back])
        return x / (bias + alpha / size * squares.unfold(1, size, 1).sum(-1)) ** beta

    return local_response_norm
