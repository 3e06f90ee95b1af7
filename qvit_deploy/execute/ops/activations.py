"""Activations: nonlinear functions of single numbers that networks put behind their layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from qvit_deploy.execute.ops.registry import OPS, NodeView, OpFn, Tensor, op

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "HardSwish": F.hardswish, "Mish": F.mish, "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Softplus": F.softplus,
    "Softsign": F.softsign, "Tanh": torch.tanh,
}  # fmt: skip

for _name, _function in _PLAIN.items():
    OPS[_name] = lambda _view, fn=_function: fn  # type: ignore[misc]


@op("LeakyRelu")
def _leaky_relu(view: NodeView) -> OpFn:
    slope = view.attr("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


@op("PRelu")
def _prelu(_: NodeView) -> OpFn:
    return lambda x, slope: torch.where(x < 0, slope * x, x)


@op("Elu")
def _elu(view: NodeView) -> OpFn:
    alpha = view.attr("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@op("Celu")
def _celu(view: NodeView) -> OpFn:
    alpha = view.attr("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@op("Selu")
def _selu(view: NodeView) -> OpFn:
    alpha, gamma = view.attr("alpha", 1.67326319217681884765625), view.attr("gamma", 1.05070102214813232421875)
    return lambda x: gamma * F.elu(x, alpha)


@op("HardSigmoid")
def _hard_sigmoid(view: NodeView) -> OpFn:
    alpha, beta = view.attr("alpha", 0.2), view.attr("beta", 0.5)
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@op("ThresholdedRelu")
def _thresholded_relu(view: NodeView) -> OpFn:
    alpha = view.attr("alpha", 1.0)
    return lambda x: F.threshold(x, alpha, 0.0)


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
