from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.formats.grids.probabilities import LevelGrid, LogGrid, UnsignedGrid
from qvit_deploy.formats.integer import Int
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.quantize.plan import WeightPlan
from tests.support.graphs.half_graphs import wide_vit
from tests.support.graphs.quantizable_graphs import calibrate


@given(st.floats(2**-14, 60000))
def test_a_rounded_scale_is_a_float16_and_hardly_moves(scale: float) -> None:
    rounded = ActivationGrid(Int(8), scale).with_half_scale()
    assert float(np.float16(rounded.scale)) == rounded.scale
    assert rounded.scale == pytest.approx(scale, rel=2**-11)


@pytest.mark.parametrize(
    "grid",
    [
        ActivationGrid(Int(8), 1e-6, 0.0), ActivationGrid(Int(8), 1e6, 0.0), ActivationGrid(Int(8), 0.1, -12.8),
        LevelGrid(Int(2), 0.1, (0, 1, 2, 127)), LogGrid(Int(4), 1, 0.3),
    ],
)  # fmt: skip
def test_what_half_precision_does_not_write_keeps_its_scale(grid: Grid) -> None:
    assert grid.with_half_scale() == grid


def test_plain_grids() -> None:
    assert UnsignedGrid(Int(4), 0.1).is_plain and ActivationGrid(Int(4), 0.1).is_plain
    assert not LogGrid(Int(4), 1, 0.3).is_plain and not ActivationGrid(Int(8), 0.1, -12.8).is_plain


def test_nothing_but_scales_of_activations_changes() -> None:
    plan = calibrate(wide_vit(), (6,), attention=True).plan((6, 6))
    rounded = half_scales(plan)
    for name, site in plan.sites.items():
        other = rounded.sites[name]
        for (tensor, before), (same, after) in zip(site.operands, other.operands, strict=True):
            assert tensor == same and float(np.float16(after.emitted_scale)) == after.emitted_scale
            assert type(after) is type(before)
        if isinstance(site, WeightPlan):
            assert isinstance(other, WeightPlan)
            assert other.codes is site.codes and other.weight_scale is site.weight_scale and other.bias is site.bias
    assert half_scales(rounded) == rounded
