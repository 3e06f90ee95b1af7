from __future__ import annotations

import pytest

from qvit_deploy.formats.integer import Int
from qvit_deploy.quantize.ranges.clip import weight_scale
from qvit_deploy.quantize.scoring.losses import SiteError, site_errors
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit


def test_losses_of_two_operands_add_and_scale() -> None:
    error = SiteError({Int(4): 1.0, Int(8): 0.25}, {Int(4): 2.0, Int(8): 0.5})
    assert error.at(Int(8), Int(4)) == 1.5 and error.scaled(2).at(Int(4), Int(8)) == 4.5


def test_a_linears_error_is_relative_to_its_output() -> None:
    calibrated = calibrate(mixed_vit(), (4, 8))
    errors = site_errors(calibrated.calibration())
    site = next(s for s in calibrated.sites if s.name == "fc2")
    weight = calibrated.weights["fc2"]
    x = calibrated.observations[site.input].rows
    rounded = Int(4).fake_quantize(weight, weight_scale(weight, Int(4)))
    output = x @ weight
    power = (output - output.mean(0)).square().sum()
    centred = x - calibrated.observations[site.input].mean
    expected = float((centred @ (rounded - weight)).square().sum() / power)
    assert errors["fc2"].weight[Int(4)] == pytest.approx(expected, rel=1e-4)
    grid = calibrated.grids[site.input, Int(4)]
    expected = float(((grid.apply(x) - grid.shift - x) @ weight).square().sum() / power)
    assert errors["fc2"].activation[Int(4)] == pytest.approx(expected, rel=1e-4)


def test_every_kind_of_site_has_an_error_that_falls_with_bits() -> None:
    calibrated = calibrate(mixed_vit(), (2, 4, 8), attention=True)
    errors = site_errors(calibrated.calibration())
    assert list(errors) == [s.name for s in calibrated.sites]
    for error in errors.values():
        for by_format in (error.activation, error.weight):
            assert by_format[Int(2)] > by_format[Int(4)] > by_format[Int(8)] > 0
