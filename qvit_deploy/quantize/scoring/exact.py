"""Exact sensitivity: one operand of one site quantized at one width, all else in float, and the outputs measured.

The loss is the mean over images of the squared change of each of the task's signals (for a classifier, the logits), as
a share of its mean square: its noise to signal ratio, summed over the signals. Noise powers of independent sources add,
which is what an allocator that sums losses assumes, so the sum over sites predicts the SQNR of the whole model (a
Kullback-Leibler divergence does not add, and says nothing about an image once its class is certain).

Cost: every change runs the graph from its site to the end, so about sites x widths forward passes an image (two
operands, half a graph each on average), where LRP or RelP take about six.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping

import torch
from torch import Tensor

from qvit_deploy.execute.executor import Branch, Tap
from qvit_deploy.execute.ops import build
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.sites import Site
from qvit_deploy.progress import Advance
from qvit_deploy.quantize.calibration import RoundedCalibration
from qvit_deploy.quantize.scoring.losses import MeasuredErrors, SiteError
from qvit_deploy.tasks.task import Task


def exact_sensitivity(
    calibration: RoundedCalibration, batches: Iterable[Examples[Tensor]], task: Task, advance: Advance
) -> MeasuredErrors:
    """Returns the sum of the noise to signal ratios of `task.signals`, by site, format and operand.

    Args:
        advance: counts images.
    """
    sites, formats = calibration.sites, calibration.formats
    operands: dict[str, Tensor] = {}
    taps = {name: _keep(operands, name) for s in sites for name in (s.input, s.second) if name is not None}
    branches = {site.output: _branch(site, calibration, operands) for site in sites}
    # By output of the model: its power, and by output of a site the noise that the site's formats make in it.
    signal: dict[str, float] = {}
    noise: dict[str, dict[str, Tensor]] = {}
    images = 0
    with torch.no_grad():
        for batch in batches:
            outputs, branched = calibration.executor.run_branches(batch, taps, branches)
            changed = {site: [task.signals(each) for each in values] for site, values in branched.items()}
            for output, clean in task.signals(outputs).items():
                signal[output] = signal.get(output, 0.0) + float(clean.double().square().sum())
                sums = noise.setdefault(output, {})
                for site_output, values in changed.items():
                    stacked = torch.stack([each[output] for each in values])
                    power = (stacked - clean).double().square().flatten(1).sum(1).cpu()
                    sums[site_output] = sums[site_output] + power if site_output in sums else power
            images += len(batch)
            advance(len(batch))
    errors = {}
    for site in sites:
        ratios = torch.stack([sums[site.output] / max(signal[output], 1e-20) for output, sums in noise.items()]).sum(0)
        activation, weight = ratios.reshape(2, -1).tolist()
        errors[site.name] = SiteError(
            dict(zip(formats, activation, strict=True)), dict(zip(formats, weight, strict=True))
        )
    return MeasuredErrors(errors, images)


def _keep(operands: MutableMapping[str, Tensor], name: str) -> Tap:
    return lambda x: operands.update({name: x})


def _branch(site: Site, calibration: RoundedCalibration, operands: MutableMapping[str, Tensor]) -> Branch:
    """Returns the branch at a site's output: its values with the input quantized to each format, then with the other
    operand."""
    product = build(next(n for n in calibration.graph.nodes() if n.outputs[0].name == site.product))
    formats, grids = calibration.formats, calibration.grids
    # The bias compensates what rounding the weights does to the mean output.
    mean = calibration.observations[site.input].mean if site.kind == "linear" else 0.0

    def layout(matrix: Tensor) -> Tensor:
        if site.kind == "linear":
            return matrix
        shape = calibration.graph.initializers[site.weight or ""].shape
        assert shape is not None
        return matrix.t().reshape(shape.numpy())

    def changed(x: Tensor, other: Tensor) -> Iterator[Tensor]:
        """Every product is linear in both operands, so only the change goes through it."""
        for format in formats:
            grid = grids[site.input, format]
            yield product(grid.apply(x) - grid.shift - x, other)
        for format in formats:
            if site.second is not None:
                grid = grids[site.second, format]
                yield product(x, grid.apply(other) - grid.shift - other)
            else:
                yield product(x - mean, layout(calibration.weight_error(site.name, format)))

    def branch(y: Tensor) -> Iterator[Tensor]:
        x = operands[site.input]
        other = operands[site.second] if site.second is not None else layout(calibration.weights[site.name])
        return (y + change for change in changed(x, other))

    return branch
