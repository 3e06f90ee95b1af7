"""Activations: nonlinear functions of single numbers that networks put behind their layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import NodeView, OpFn, Tensor, op, ops_without_attributes

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "HardSwish": F.hardswish, "Mish": F.mish, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Softplus": F.softplus,
    "Softsign": F.softsign, "Tanh": torch.tanh,
}  # fmt: skip
ops_without_attributes(_PLAIN)

_OF_ALPHA: dict[str, tuple[Callable[[Tensor, float], Tensor], float]] = {
    "Celu": (F.celu, 1.0), "Elu": (F.elu, 1.0), "LeakyRelu": (F.leaky_relu, 0.01),
    "ThresholdedRelu": (lambda x, alpha: F.threshold(x, alpha, 0.0), 1.0),
}  # fmt: skip
"""Operator -> (function of x and the attribute `alpha`, the attribute's default in ONNX)."""


@op(*_OF_ALPHA)
def _of_alpha(view: NodeView) -> OpFn:
    function, default = _OF_ALPHA[view.node.op_type]
    alpha = view.attr("alpha", default)
    return lambda x: function(x, alpha)


@op("PRelu")
def _prelu(_: NodeView) -> OpFn:
    return lambda x, slope: torch.where(x < 0, slope * x, x)


@op("Selu")
def _selu(view: NodeView) -> OpFn:
    alpha, gamma = view.attr("alpha", 1.67326319217681884765625), view.attr("gamma", 1.05070102214813232421875)
    return lambda x: gamma * F.elu(x, alpha)


@op("HardSigmoid")
def _hard_sigmoid(view: NodeView) -> OpFn:
    alpha, beta = view.attr("alpha", 0.2), view.attr("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@op("Shrink")
def _shrink(view: NodeView) -> OpFn:
    bias, threshold = view.attr("bias", 0.0), view.attr("lambd", 0.5)

    def shrink(x: Tensor) -> Tensor:
        return torch.where(x < -threshold, x + bias, torch.where(x > threshold, x - bias, torch.zeros_like(x)))

    return shrink


@op("Gelu")
def _gelu(view: NodeView) -> OpFn:
    approximate = view.attr("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)
