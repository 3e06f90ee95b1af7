"""What each width costs at each site in local output error: the table the allocator minimises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from qvit_deploy.calibrate.products import ProductSample
from qvit_deploy.formats.format import Format
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.calibration import RoundedCalibration
from qvit_deploy.quantize.plan import Grids

ROWS = 256
"""Sampled rows an error is measured on; it is then known to a few percent, and widths differ by 4x per bit."""


@dataclass(frozen=True)
class SiteError:
    """Loss of one site by format of one operand at a time: relative output error, or what a score makes of it.

    Attributes:
        activation: format of the input -> error with the input quantized only.
        weight: format of the weight -> error with the weight (or second operand) quantized only.
    """

    activation: Mapping[Format, float]
    weight: Mapping[Format, float]

    def at(self, weights: Format, activations: Format) -> float:
        """Adds the errors of both operands, which are independent to first order."""
        return self.weight[weights] + self.activation[activations]

    def scaled(self, factor: float) -> SiteError:
        """Returns every error times `factor`."""
        return SiteError(
            {f: e * factor for f, e in self.activation.items()}, {f: e * factor for f, e in self.weight.items()}
        )


class MeasuredErrors(NamedTuple):
    """Losses of every site, by site name, and how many images they were measured on."""

    errors: dict[str, SiteError]
    images: int


def site_errors(calibration: RoundedCalibration) -> dict[str, SiteError]:
    """Returns site name -> `SiteError`, on sampled rows.

    Errors are relative to the output without its mean, which is no signal: folds move it between the product and the
    bias, and the bias compensates what rounding the weights does to it.

    For a convolution, whose rows are not the sampled ones, the operands' own relative errors stand in for the output's.
    An attention product's are measured on the operands `calibration` sampled.
    """
    observations, weights, grids = calibration.observations, calibration.weights, calibration.grids
    formats = calibration.formats
    errors = {}
    for site in calibration.sites:
        if site.name in calibration.products:
            errors[site.name] = _product_error(site, calibration.products[site.name], grids, formats)
            continue
        rows = observations[site.input].rows[:ROWS]
        a_grids = {f: grids[site.input, f] for f in formats}
        quantization_error = {f: g.apply(rows) - g.shift - rows for f, g in a_grids.items()}
        if site.kind == "linear":
            weight = weights[site.name]
            output = rows @ weight
            power = float((output - output.mean(0)).square().sum()) + 1e-20
            activation = {f: float((d @ weight).square().sum()) / power for f, d in quantization_error.items()}
            centred = rows - observations[site.input].mean
            change = {f: centred @ calibration.weight_error(site.name, f) for f in formats}
            weight_error = {f: float(c.square().sum()) / power for f, c in change.items()}
        else:
            power = float(rows.square().sum()) + 1e-20
            activation = {f: float(d.square().sum()) / power for f, d in quantization_error.items()}
            weight = weights[site.name]
            base = float(weight.square().sum()) + 1e-20
            weight_error = {f: float(calibration.weight_error(site.name, f).square().sum()) / base for f in formats}
        errors[site.name] = SiteError(activation, weight_error)
    return errors


def _product_error(site: Site, sample: ProductSample, grids: Grids, formats: Iterable[Format]) -> SiteError:
    assert site.second is not None
    power = float(sample.power().sum()) + 1e-20
    left, right = {}, {}
    for format in formats:
        grid, second = grids[site.input, format], grids[site.second, format]
        left[format] = float(sample.left_error(grid.apply(sample.left) - grid.shift).sum()) / power
        right[format] = float(sample.right_error(second.apply(sample.right) - second.shift).sum()) / power
    return SiteError(left, right)
