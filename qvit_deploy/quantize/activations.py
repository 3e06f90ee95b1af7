"""Grids for activation tensors: one scale, and after GELU one shift, per tensor and bit width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.clip import activation_scale
from qvit_deploy.quantize.grid import Tensor, fake_quantize

SHIFT_BELOW_BITS = 8
"""At 8 bits the symmetric grid of a GELU output loses nothing measurable and the extra Add costs time."""


@dataclass(frozen=True)
class ActivationGrid:
    """x is quantized as Q(x + shift) on a symmetric b-bit grid; the consumer's bias takes the shift back.

    Attributes:
        bits: grid width.
        scale: float > 0.
        shift: 0.0 except for one-sided tensors.
    """

    bits: int
    scale: float
    shift: float

    def apply(self, x: Tensor) -> Tensor:
        """The dequantized value of x + shift, float32, what the consumer's product reads."""
        return fake_quantize(x + self.shift if self.shift else x, torch.tensor(self.scale, device=x.device), self.bits)


def activation_grid(observation: Observation, importance: Tensor, bits: int, may_shift: bool) -> ActivationGrid:
    """The grid with the least weighted squared error, shifted when that wins and `may_shift` allows it.

    Args:
        importance: [channels] weight of each channel's error (see `clip.activation_scale`).
    """
    rows = observation.rows
    plain = ActivationGrid(bits, float(activation_scale(rows, importance, observation.absmax, bits)), 0.0)
    one_sided = min(abs(observation.low), abs(observation.high)) < 0.5 * observation.absmax
    if not (may_shift and one_sided and bits < SHIFT_BELOW_BITS):
        return plain
    # The clipped end of the range is not known yet: try centring on several fractions of the long side. A quarter of
    # the rows (they start with the extremes) ranks the candidates as all of them do, at a quarter of the time.
    few = rows[::4]
    best, best_error = plain, _error(plain, few, importance)
    for fraction in (0.3, 0.45, 0.6, 0.8, 1.0):
        low, high = observation.low, observation.high
        low, high = (low, high * fraction) if high > -low else (low * fraction, high)
        shift = -(low + high) / 2
        absmax = max(observation.high + shift, -observation.low - shift)
        scale = activation_scale(few + shift, importance, absmax, bits)
        grid = ActivationGrid(bits, float(scale), float(torch.tensor(shift, dtype=torch.float32)))
        if (error := _error(grid, few, importance)) < best_error:
            best, best_error = grid, error
    return best


def _error(grid: ActivationGrid, rows: Tensor, importance: Tensor) -> float:
    return float(((grid.apply(rows) - grid.shift - rows).square_().sum(0) * importance).sum())


def activation_grids(
    sites: Iterable[Site],
    observations: Mapping[str, Observation],
    weights: Mapping[str, Tensor],
    widths: Iterable[int],
) -> dict[tuple[str, int], ActivationGrid]:
    """(tensor name, bits) -> grid, one for every activation tensor the sites read: readers of one tensor share it.

    Args:
        weights: site name -> [in, out] float32, for the linear sites.
    """
    importance: dict[str, Tensor] = {}
    may_shift: dict[str, bool] = {}
    for site in sites:
        for name in (site.input, site.second):
            if name is None:
                continue
            channels = observations[name].rows.shape[-1]
            weighted = site.kind == "linear"
            own = weights[site.name].square().sum(1) if weighted else torch.ones(channels)
            importance[name] = importance.get(name, torch.zeros(channels)) + own
            # Only a linear can take the shift back in its bias at no cost.
            may_shift[name] = may_shift.get(name, True) and weighted
    return {
        (name, bits): activation_grid(observations[name], importance[name], bits, may_shift[name])
        for name in importance
        for bits in widths
    }
