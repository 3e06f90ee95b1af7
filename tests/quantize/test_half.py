from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.quantize.half import _rounded, half_scales, is_plain
from qvit_deploy.quantize.ranges.activations import ActivationGrid
from qvit_deploy.quantize.ranges.softmax import LevelGrid, LogGrid, UnsignedGrid
from tests.support.graphs.half_graphs import wide_vit
from tests.support.graphs.quantizable_graphs import calibrate


@given(st.floats(2**-14, 60000))
def test_a_rounded_scale_is_a_float16_and_hardly_moves(scale: float) -> None:
    rounded = _rounded(ActivationGrid(8, scale, 0.0))
    assert isinstance(rounded, ActivationGrid)
    assert float(np.float16(rounded.scale)) == rounded.scale
    assert rounded.scale == pytest.approx(scale, rel=2**-11)


@pytest.mark.parametrize(
    "grid",
    [
        ActivationGrid(8, 1e-6, 0.0), ActivationGrid(8, 1e6, 0.0), ActivationGrid(8, 0.1, -12.8),
        LevelGrid(2, 0.1, (0, 1, 2, 127)), LogGrid(4, 1, 0.3),
    ],
)  # fmt: skip
def test_what_half_precision_does_not_write_keeps_its_scale(grid: object) -> None:
    assert _rounded(grid) is grid  # type: ignore[arg-type]


def test_plain_grids() -> None:
    assert is_plain(UnsignedGrid(4, 0.1)) and is_plain(ActivationGrid(4, 0.1, 0.0))
    assert not is_plain(LogGrid(4, 1, 0.3)) and not is_plain(ActivationGrid(8, 0.1, -12.8))


def test_nothing_but_scales_of_activations_changes() -> None:
    plan = calibrate(wide_vit(), (6,), attention=True).plan((6, 6))
    rounded = half_scales(plan)
    for name, site in plan.sites.items():
        other = rounded.sites[name]
        assert other.codes is site.codes and other.weight_scale is site.weight_scale and other.bias is site.bias
        assert float(np.float16(other.grid.scale)) == other.grid.scale  # type: ignore[attr-defined]
        assert (other.second_grid is None) == (site.second_grid is None)
    assert half_scales(rounded) == rounded
