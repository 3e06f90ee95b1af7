"""Linear sensitivity: quantizing a site is a patch, and one backward pass estimates what every patch does to the logit.

With the clean activation x, its quantized value x' and the coefficient rho of the site's output (what reaches it in
the backward pass from the predicted class's logit), the estimated change of that logit is sum ((x' - x) W) rho for the
activation and sum (x (W' - W)) rho for the weight. With the plain gradient as rho this is attribution patching, the
first-order Taylor term (Syed et al., arXiv 2310.10348); with the coefficients of the `relp` rules it is RelP (arXiv
2508.21258, section 3: (n(x') - n(x)) . rho). One forward and one backward pass give it for every site and every width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.format import Format
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.calibration import RoundedCalibration
from qvit_deploy.quantize.plan import Grids
from qvit_deploy.quantize.scoring.losses import SiteError
from qvit_deploy.relevance.lrp import propagate
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.tasks.objective import predicted


def linear_sensitivity(
    calibration: RoundedCalibration, batches: Iterable[Tensor], rule_set: RuleSet, progress: Callable[[int], None]
) -> tuple[dict[str, SiteError], int]:
    """(site name -> mean over images of the squared estimated logit change, by width and operand; images seen).

    Squared, because the changes of different sites have random signs and their variances add.

    Args:
        batches: float32 [b, C, H, W] each.
        rule_set: what happens in the backward pass.
        progress: called with the number of images of each batch when it is done.
    """
    sites, formats, weights = calibration.sites, calibration.formats, calibration.weights
    totals = {s.name: (torch.zeros(len(formats)), torch.zeros(len(formats))) for s in sites}
    # The bias makes good for what rounding the weights does to the mean output.
    means = {s.input: calibration.observations[s.input].mean for s in sites if s.kind == "linear"}
    readers: dict[str, list[Site]] = {}
    for site in sites:
        readers.setdefault(site.input, []).append(site)
        if site.second is not None:
            readers.setdefault(site.second, []).append(site)
    outputs = {s.output for s in sites if s.kind == "linear"}
    images = 0
    size = 0
    for batch in batches:
        if len(batch) != size:
            size = len(batch)
            executor = Executor(calibration.graph, overrides=rule_set.bind(calibration.graph, size).overrides)
        coefficients: dict[str, Tensor] = {}

        def visit(name: str, activation: Tensor, g: Tensor) -> None:
            # Backward reaches a site's output before its input, so rho is there when x arrives.
            if name in outputs:
                coefficients[name] = g  # noqa: B023 - visit does not outlive the iteration
            for site in readers.get(name, ()):
                a_total, w_total = totals[site.name]
                if site.kind == "linear":
                    rho, weight = coefficients[site.output], weights[site.name]  # noqa: B023
                    moved = _moved(activation, rho @ weight.t(), name, calibration.grids, formats, size)  # noqa: B023
                    a_total += moved.square().sum(0)
                    rounded = _rounded(activation - means[name], rho, calibration, site.name, size)  # noqa: B023
                    w_total += rounded.square().sum(0)
                else:
                    moved = _moved(activation, g, name, calibration.grids, formats, size)  # noqa: B023
                    (a_total if name == site.input else w_total).add_(moved.square().sum(0))
                    if site.kind == "conv":
                        # Rounding at one width moves a kernel by as much, relative to its size, as the input.
                        w_total += moved.square().sum(0)

        propagate(executor, batch, {*readers, *outputs}, visit, rule_set.starting_at(predicted))
        images += len(batch)
        progress(len(batch))
    losses = {
        name: SiteError(*({b: float(v) / images for b, v in zip(formats, total, strict=True)} for total in pair))
        for name, pair in totals.items()
    }
    return losses, images


def _rounded(x: Tensor, rho: Tensor, calibration: RoundedCalibration, site: str, batch: int) -> Tensor:
    """sum (x (W' - W)) rho per image and width, [batch, formats]; windows of one image are summed."""
    outer = x.reshape(batch, -1, x.shape[-1]).transpose(1, 2) @ rho.reshape(batch, -1, rho.shape[-1])
    return torch.stack([outer.flatten(1) @ calibration.weight_error(site, b).flatten() for b in calibration.formats], 1)


def _moved(x: Tensor, coefficient: Tensor, name: str, grids: Grids, formats: Sequence[Format], batch: int) -> Tensor:
    """sum (x' - x) rho per image and width, [batch, formats]."""
    effects = []
    for format in formats:
        grid = grids[name, format]
        effects.append(((grid.apply(x) - grid.shift - x) * coefficient).reshape(batch, -1).sum(1))
    return torch.stack(effects, 1)
