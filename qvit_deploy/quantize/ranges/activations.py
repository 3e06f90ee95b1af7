"""Grids for activation tensors: one scale per tensor and format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.formats.format import Format
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.integer import UNSIGNED_BITS, Int, Unsigned
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.ranges.clip import activation_scale


def activation_grid(observation: Observation, importance: Tensor, format: Format) -> ActivationGrid:
    """Returns the grid with the least weighted squared error.

    Args:
        importance: [channels] weight of each channel's error (see `clip.activation_scale`).
    """
    scale = activation_scale(observation.rows, observation.weights, importance, observation.absmax, format)
    return ActivationGrid(format, float(scale))


def channel_importance(sites: Iterable[Site], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns activation tensor -> what an error of each channel does to the outputs of the linears that read it: the
    squared norm of its rows in their weights, float32 [channels].

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
    formats: Iterable[Format],
) -> dict[tuple[str, Format], ActivationGrid]:
    """Returns (tensor name, format) -> grid, one for every activation tensor the sites read: readers of one tensor
    share it.

    What only convolutions read behind a ReLU has codes without a sign where they fit their container. (Inputs of
    linears are shifted instead, `folds.equalize`, which padding would not allow.)
    """
    importance = channel_importance(sites, weights)
    names = dict.fromkeys(n for s in sites for n in (s.input, s.second) if n is not None)
    equal = {n: torch.ones(observations[n].rows.shape[-1]) for n in names}
    return {
        (name, format): activation_grid(
            observations[name], importance.get(name, equal[name]), _format_of(name, format, sites, observations[name])
        )
        for name in names
        for format in formats
    }


def _format_of(name: str, format: Format, sites: Iterable[Site], observation: Observation) -> Format:
    """Returns the format of the grid of a tensor for which an allocation says `format`."""
    readers = [s for s in sites if name in (s.input, s.second)]
    rectified = all(s.kind == "conv" and s.role == "post_relu" for s in readers)
    if not rectified or type(format) is not Int or format.bits > UNSIGNED_BITS or observation.low < 0:
        return format
    return Unsigned(format.bits)
