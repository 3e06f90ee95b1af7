"""Activation scales that float16 holds exactly, so that one plan gives the same codes in float32 and in float16.

A QuantizeLinear in half precision has a half-precision scale. If that were the plan's scale rounded, every value near
the middle between two codes would get another code than with the scale itself. Rounding the scale in the plan instead
moves it by at most 2^-11 of itself, which no accuracy can see, and both graphs then divide by the same number.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qvit_deploy.quantize.grid import Grid
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.quantize.ranges.activations import ActivationGrid
from qvit_deploy.quantize.ranges.softmax import UnsignedGrid

SMALLEST_NORMAL = 2.0**-14
"""Below it float16 loses digits, and such scales keep float32."""


def half_scales(plan: Plan) -> Plan:
    """`plan` with the scale of every plain grid rounded to the nearest float16.

    Grids with a shift, per head or per row, levels or logarithms keep their scales: none of them is written in half
    precision (`targets.tensorrt.half.emission`). So do scales outside float16's normal range.
    """
    sites = {}
    for name, site in plan.sites.items():
        second = None if site.second_grid is None else _rounded(site.second_grid)
        sites[name] = replace(site, grid=_rounded(site.grid), second_grid=second)
    return Plan(sites)


def is_plain(grid: Grid) -> bool:
    """Whether `grid` is one QuantizeLinear, behind a Clip at most."""
    return isinstance(grid, UnsignedGrid) or (isinstance(grid, ActivationGrid) and not grid.shift)


def _rounded(grid: Grid) -> Grid:
    if not is_plain(grid):
        return grid
    assert isinstance(grid, ActivationGrid | UnsignedGrid)
    with np.errstate(over="ignore"):
        scale = float(np.float16(grid.scale))
    return replace(grid, scale=scale) if SMALLEST_NORMAL <= scale < float("inf") else grid
