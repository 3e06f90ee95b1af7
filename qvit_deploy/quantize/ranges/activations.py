"""Grids for activation tensors: one scale per tensor and bit width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.grid import Tensor, fake_quantize
from qvit_deploy.quantize.ranges.clip import activation_scale


@dataclass(frozen=True)
class ActivationGrid:
    """x is quantized as Q(x + shift) on a symmetric b-bit grid; the product's output takes the shift back.

    Attributes:
        bits: grid width.
        scale: float > 0.
        shift: 0.0 except for attention probabilities, whose values are all on one side.
    """

    bits: int
    scale: float
    shift: float

    def apply(self, x: Tensor) -> Tensor:
        """The dequantized value of x + shift, float32, what the consumer's product reads."""
        return fake_quantize(x + self.shift if self.shift else x, torch.tensor(self.scale, device=x.device), self.bits)


def activation_grid(observation: Observation, importance: Tensor, bits: int) -> ActivationGrid:
    """The grid with the least weighted squared error.

    Args:
        importance: [channels] weight of each channel's error (see `clip.activation_scale`).
    """
    scale = activation_scale(observation.rows, observation.weights, importance, observation.absmax, bits)
    return ActivationGrid(bits, float(scale), 0.0)


def channel_importance(sites: Iterable[Site], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Activation tensor -> what an error of each channel does to the outputs of the linears that read it: the squared
    norm of its rows in their weights, float32 [channels].

    Args:
        weights: site name -> [in, out] float32, for the linear sites.
    """
    importance: dict[str, Tensor] = {}
    for site in sites:
        if site.kind == "linear":
            own = weights[site.name].square().sum(1)
            importance[site.input] = importance[site.input] + own if site.input in importance else own
    return importance


def activation_grids(
    sites: Sequence[Site],
    observations: Mapping[str, Observation],
    weights: Mapping[str, Tensor],
    widths: Iterable[int],
) -> dict[tuple[str, int], ActivationGrid]:
    """(tensor name, bits) -> grid, one for every activation tensor the sites read: readers of one tensor share it."""
    importance = channel_importance(sites, weights)
    names = dict.fromkeys(n for s in sites for n in (s.input, s.second) if n is not None)
    equal = {n: torch.ones(observations[n].rows.shape[-1]) for n in names}
    return {
        (name, bits): activation_grid(observations[name], importance.get(name, equal[name]), bits)
        for name in names
        for bits in widths
    }
