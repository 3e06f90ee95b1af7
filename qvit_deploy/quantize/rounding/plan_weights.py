"""Builds the plan, layer after layer in the order of the graph, each on inputs that the layers before it really give.

Two runs over the calibration images go side by side (`execute.lockstep`): one in float, one in which everything up to
here is quantized. Ranges, regression, rounding and bias of a layer are fitted to its inputs in the second, so that it
also compensates what it can of the errors before it; the target is its output in the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qvit_deploy.calibrate.observe import Observer, rows_per_image
from qvit_deploy.execute.lockstep import Lockstep
from qvit_deploy.execute.ops import OpFn
from qvit_deploy.formats.format import Format
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.sites import Site
from qvit_deploy.progress import Advance
from qvit_deploy.quantize.calibration import Calibration
from qvit_deploy.quantize.plan import Formats, Grids, Plan, ProductPlan, SitePlan, WeightPlan
from qvit_deploy.quantize.ranges.activations import activation_grid, channel_importance
from qvit_deploy.quantize.rounded_weight import RoundedWeight
from qvit_deploy.quantize.rounding.compensate import (
    DAMPING,
    GramAccumulator,
    add_bias,
    corrected_bias,
    factorise,
    pooled,
    regress,
    round_weight,
)
from qvit_deploy.quantize.rounding.ridge import cross_validated_share
from qvit_deploy.recipe import Compensation


def build_plan(
    calibration: Calibration,
    formats: Formats,
    compensate: Compensation,
    batches: Iterable[Examples[Tensor]],
    seed: int,
    advance: Advance,
) -> Plan:
    """Rounds the weights of every site in `formats`.

    Args:
        compensate: "none" rounds to nearest on the calibration's own grids; "bias" fits grids and biases to the
            quantized inputs; "gptq" adds regression and error feedback (`compensate`).
        batches: calibration images; not read when `compensate` is "none". All are held until the first layers have
            read them: both runs stand at the same tensor on all of them.
        seed: of the rows that grids are fitted to, and of the cross-validation.
        advance: called with 1 for every site done.
    """
    chosen = [s for s in calibration.sites if s.name in formats]
    rounder = _Rounder(calibration, formats, seed)
    if compensate == "none":
        return Plan({s.name: rounder.to_nearest(s) for s in chosen})
    runs = _Runs(calibration, chosen, list(batches), seed)
    plans: dict[str, SitePlan] = {}
    for site in chosen:
        if site.second is not None:
            product = rounder.product(site, site.second)
            runs.multiply(product)
            plans[site.name] = product
        else:
            inputs = runs.inputs(site, formats[site.name][1], calibration.grids)
            weight = rounder.fitted(site, inputs, compensate == "gptq")
            runs.apply(weight, inputs)
            plans[site.name] = weight
        advance(1)
    return Plan(plans)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """The input of a linear or a convolution in the quantized run: every batch, its grid, and (of a linear) second
    moments against the float run's, on two halves of the images."""

    values: list[Tensor]
    grid: Grid
    halves: tuple[GramAccumulator, GramAccumulator] | None


class _Runs:
    """The float run and the quantized run."""

    def __init__(self, calibration: Calibration, sites: list[Site], batches: list[Examples[Tensor]], seed: int) -> None:
        self.calibration = calibration
        self.images = [len(b) for b in batches]
        self.seed = seed
        names = {n for s in sites for n in (s.input, s.second, s.output) if n is not None}
        self.exact = Lockstep(calibration.executor, batches, names)
        self.quantized = Lockstep(calibration.executor, batches, names)
        self.importance = channel_importance(calibration.sites, calibration.weights)
        self.last: tuple[tuple[str, Format], _Inputs] | None = None
        self.last_reader = {s.input: s.name for s in sites}

    def inputs(self, site: Site, format: Format, grids: Grids) -> _Inputs:
        """Returns the input of `site` in `format`; sites that share it, one after the other in the graph, share the
        work."""
        key = site.input, format
        if self.last is None or self.last[0] != key:
            self.last = None  # at 224 pixels and 128 images an input takes 0.3 GB
            values = self.quantized.advance(site.input)
            exact = self.exact.advance(site.input)
            if site.kind == "linear":
                grid = self._grid(site.input, values, format)
                self.last = key, _Inputs(values, grid, self._halves(site.input, values, exact, grid))
                if self.last_reader[site.input] == site.name:
                    del exact
                    self.exact.advance(site.output)  # lets go of the input
            else:
                self.last = key, _Inputs(values, grids[key], None)
        return self.last[1]

    def apply(self, plan: WeightPlan, inputs: _Inputs) -> None:
        """Lets the quantized run go on with what the planned site computes from its inputs."""
        site, scale = plan.site, torch.from_numpy(plan.weight_scale)
        column = scale if site.kind == "linear" else scale[:, None, None, None]
        weight = plan.format.dequantize(torch.from_numpy(plan.codes.astype(np.float32)), column)
        bias = None if plan.bias is None else torch.from_numpy(plan.bias)
        values, grid = inputs.values, inputs.grid

        def planned(run: OpFn, index: int) -> Tensor:
            x = grid.apply(values[index])
            if site.bias is not None:
                return run(x, weight, bias)
            product: Tensor = run(x, weight)
            return product if bias is None else add_bias(product, bias, site.kind)

        self.quantized.replace(site.output, planned)

    def multiply(self, plan: ProductPlan) -> None:
        """Lets the quantized run go on with what the planned attention product computes."""
        left, right = (self.quantized.advance(name) for name, _ in plan.operands)
        grid, second = plan.grid, plan.second_grid

        def planned(run: OpFn, index: int) -> Tensor:
            # The emitted graph undoes a shift behind the product; here it is undone in front.
            x, y = grid.apply(left[index]) - grid.shift, second.apply(right[index]) - second.shift
            return run(x, y)

        self.quantized.replace(plan.site.output, planned)

    def _grid(self, name: str, values: list[Tensor], format: Format) -> Grid:
        generator = torch.Generator().manual_seed(self.seed)
        quota = rows_per_image(sum(self.images))
        observer = Observer(name, quota, generator, self.calibration.importance.get(name))
        for value, images in zip(values, self.images, strict=True):
            observer.add(value, images)
        return activation_grid(observer.result(), self.importance[name], format)

    def _halves(
        self, name: str, values: list[Tensor], exact: list[Tensor], grid: Grid
    ) -> tuple[GramAccumulator, GramAccumulator]:
        channels = values[0].shape[-1]
        halves = GramAccumulator(channels), GramAccumulator(channels)
        importance = self.calibration.importance.get(name)
        for index, (value, x, images) in enumerate(zip(values, exact, self.images, strict=True)):
            rows = grid.apply(value).reshape(-1, channels).cpu()
            # Single images go to the halves in turn.
            cut = (images + index % 2) // 2 * (len(rows) // images)
            exact_rows = x.reshape(-1, channels).cpu()
            halves[0].add(rows[:cut], exact_rows[:cut], importance)
            halves[1].add(rows[cut:], exact_rows[cut:], importance)
        return halves


class _Rounder:
    """Rounds single sites."""

    def __init__(self, calibration: Calibration, formats: Formats, seed: int) -> None:
        self.calibration = calibration
        self.formats = formats
        self.seed = seed

    def to_nearest(self, site: Site) -> SitePlan:
        """Plans a site with weights rounded to nearest, on the calibration's own grids."""
        if site.second is not None:
            return self.product(site, site.second)
        weights, activations = self.formats[site.name]
        rounded = round_weight(self.calibration.weights[site.name], weights, None)
        grid = self.calibration.grids[site.input, activations]
        return self._plan(site, grid, rounded, self._initializer(site.bias))

    def product(self, site: Site, second: str) -> ProductPlan:
        """Plans the attention product of the site's input and `second`."""
        weights, activations = self.formats[site.name]
        grids = self.calibration.grids
        return ProductPlan(site, grids[site.input, activations], second, grids[second, weights])

    def fitted(self, site: Site, inputs: _Inputs, feedback: bool) -> WeightPlan:
        """Plans a site with weights fitted to its quantized inputs. Without `feedback` they are rounded to nearest; a
        convolution's always are, and its bias stays."""
        weight, format = self.calibration.weights[site.name], self.formats[site.name][0]
        bias = self._initializer(site.bias)
        if inputs.halves is None:
            return self._plan(site, inputs.grid, round_weight(weight, format, None), bias)
        share = cross_validated_share(weight, inputs.halves, self.seed) if feedback else math.inf
        moments = pooled(inputs.halves)
        if feedback:
            target = regress(weight, moments, share)
            rounded = round_weight(target, format, factorise(moments, DAMPING).feedback())
        else:
            importance = moments.covariance.diagonal().float().clamp_min(0)
            rounded = round_weight(weight, format, None, importance)
        return self._plan(site, inputs.grid, rounded, corrected_bias(bias, weight, rounded.value(), moments))

    def _plan(self, site: Site, grid: Grid, weight: RoundedWeight, bias: Tensor | None) -> WeightPlan:
        kernel = self._initializer(site.weight)
        assert kernel is not None
        format = self.formats[site.name][0]
        codes = weight.codes if site.kind == "linear" else weight.codes.t().reshape(kernel.shape)
        return WeightPlan(
            site=site,
            format=format,
            grid=grid,
            codes=codes.numpy().astype(format.container, copy=False),
            weight_scale=weight.scale.numpy(),
            bias=None if bias is None else bias.numpy(),
        )

    def _initializer(self, name: str | None) -> Tensor | None:
        array = None if name is None else constant(self.calibration.graph.initializers[name])
        return None if array is None else torch.from_numpy(np.array(array, dtype=np.float32))
