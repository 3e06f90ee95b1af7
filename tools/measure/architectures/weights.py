"""Weights for models that were never trained: random, with activations of the size that trained networks have.

As libraries draw them, weights are made for the first step of a training: layer scales of 1e-6 and zeroed gains switch
blocks off, batch norms know no statistics, and what tells images apart dies away with depth. A compile of such a model
measures little. So constants are drawn anew, and a pass over pictures gives every product unit variance and every batch
norm the statistics of what it gets: LSUV (Mishkin & Matas 2016), the same for all models.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

Hooks = dict[nn.Module, RemovableHandle]
"""What is still to be called once."""

_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)
_NOTHING = 1e-5
"""What differs by less is a constant: some are drawn with a deviation of 1e-10, class tokens of others of 1e-6."""

_LEAST_VARIANCE = 0.01
"""Of a channel, relative to the mean of all: one that is dead on the pictures would amplify whatever noise it gets."""


@torch.no_grad()
def scale_to_data(model: nn.Module, run: Callable[[], object]) -> None:
    """Changes the weights of `model`, which `run` calls with a batch of examples, in place."""
    for name, parameter in model.named_parameters():
        _redraw_constant(name, parameter)
    hooks: Hooks = {}
    for module in model.modules():
        if isinstance(module, _PRODUCTS):
            hooks[module] = module.register_forward_hook(partial(_unit_variance, hooks))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:  # some are drawn around a gain of zero
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.1)
            hooks[module] = module.register_forward_pre_hook(partial(_own_statistics, hooks))
    run()
    for hook in hooks.values():
        hook.remove()


def _redraw_constant(name: str, parameter: nn.Parameter) -> None:
    """Gains get 0.5 to 1.5 times their value, biases and tables small values, layer scales near zero 0.25 to 0.75."""
    if parameter.numel() == 1 or not parameter.is_floating_point():
        return
    value = float(parameter.mean())
    spread = float((parameter - value).abs().max())
    if spread > _NOTHING:
        return
    gain = parameter.dim() == 1 and name.endswith(("weight", "gamma"))
    if (spread > 0 or value == 0) and not gain:
        parameter.normal_(std=0.1)
    elif abs(value) < 0.01:
        parameter.uniform_(0.25, 0.75)
    else:
        parameter.uniform_(0.5, 1.5).mul_(value)


def _unit_variance(
    hooks: Hooks,
    layer: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    _: object,
) -> torch.Tensor:
    """Scales the weight on the layer's first call so that its product, without bias, has unit variance."""
    hooks.pop(layer).remove()
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter) and (bias is None or isinstance(bias, nn.Parameter))
    layer.register_parameter("bias", None)
    deviation = float(layer.forward(*inputs).std())
    layer.bias = bias
    if deviation > 0:
        weight.div_(deviation)
    result: torch.Tensor = layer.forward(*inputs)
    return result


def _own_statistics(hooks: Hooks, norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Gives a batch norm the mean and variance of each channel of its first input."""
    hooks.pop(norm).remove()
    assert isinstance(norm.running_mean, torch.Tensor) and isinstance(norm.running_var, torch.Tensor)
    channels = inputs[0].transpose(0, 1).flatten(1)
    norm.running_mean.copy_(channels.mean(1))
    variances = channels.var(1)
    norm.running_var.copy_(variances.clamp_min(float(_LEAST_VARIANCE * variances.mean())))
