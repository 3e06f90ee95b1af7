"""Linear sensitivity: quantizing a site is a patch, and one backward pass estimates what every patch does to the
task's objective (for a classifier, the predicted class's logit).

With the clean activation x, its quantized value x' and the coefficient rho of the site's output (what reaches it in
the backward pass from the objective), the estimated change of the objective is sum ((x' - x) W) rho for the activation
and sum (x (W' - W)) rho for the weight. With the plain gradient as rho this is attribution patching, the
first-order Taylor term (Syed et al., arXiv 2310.10348); with the coefficients of the `relp` rules it is RelP (arXiv
2508.21258, section 3: (n(x') - n(x)) . rho). One forward and one backward pass give it for every site and every width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.format import Format
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.sites import Site
from qvit_deploy.progress import Advance
from qvit_deploy.quantize.calibration import RoundedCalibration
from qvit_deploy.quantize.scoring.losses import MeasuredErrors, SiteError
from qvit_deploy.relevance.lrp import propagate
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.tasks.task import Objective


def linear_sensitivity(
    calibration: RoundedCalibration,
    batches: Iterable[Examples[Tensor]],
    rule_set: RuleSet,
    objective: Objective,
    advance: Advance,
) -> MeasuredErrors:
    """Returns the mean over images of the squared estimated change of the objective, by site, format and operand.

    Squared, because the changes of different sites have random signs and their variances add.

    Args:
        rule_set: what happens in the backward pass.
        objective: the scalar whose change is estimated (`Task.objective_for`).
        advance: counts images.
    """
    changes = _Changes(calibration)
    images = size = 0
    for batch in batches:
        if len(batch) != size:
            size = len(batch)
            executor = Executor(calibration.graph, overrides=rule_set.bind(calibration.graph, size).overrides)
        changes.begin(size)
        propagate(executor, batch, changes.names, changes.visit, rule_set.starting_at(objective))
        images += len(batch)
        advance(len(batch))
    return MeasuredErrors(changes.mean(images), images)


class _Changes:
    """Estimated logit changes of every site and format, squared and added up over images.

    Attributes:
        names: the tensors to `visit` in a backward pass.
    """

    def __init__(self, calibration: RoundedCalibration) -> None:
        self.calibration = calibration
        sites, count = calibration.sites, len(calibration.formats)
        self._activation = {s.name: torch.zeros(count) for s in sites}
        self._weight = {s.name: torch.zeros(count) for s in sites}
        # The bias compensates what rounding the weights does to the mean output.
        self._means = {s.input: calibration.observations[s.input].mean for s in sites if s.kind == "linear"}
        self._readers: dict[str, list[Site]] = {}
        for site in sites:
            for name in (site.input, site.second):
                if name is not None:
                    self._readers.setdefault(name, []).append(site)
        self._outputs = {s.output for s in sites if s.kind == "linear"}
        self.names = {*self._readers, *self._outputs}
        self._size, self._coefficients = 0, dict[str, Tensor]()

    def begin(self, size: int) -> None:
        """Lets what is visited from here on belong to a batch of `size` images."""
        self._size, self._coefficients = size, {}

    def visit(self, name: str, activation: Tensor, g: Tensor) -> None:
        """Takes in a tensor and its coefficients. Backward reaches a site's output before its input, so that rho is
        there when x arrives."""
        if name in self._outputs:
            self._coefficients[name] = g
        for site in self._readers.get(name, ()):
            if site.kind == "linear":
                rho = self._coefficients.get(site.output)
                if rho is None:  # nothing reaches this reader of the tensor; `rank_sites` reports it
                    continue
                weight = self.calibration.weights[site.name]
                self._activation[site.name] += self._activation_effects(activation, rho @ weight.t(), name)
                self._weight[site.name] += self._weight_effects(activation - self._means[name], rho, site.name)
            else:
                change = self._activation_effects(activation, g, name)
                (self._activation if name == site.input else self._weight)[site.name] += change
                if site.kind == "conv":
                    # Rounding in one format moves a kernel by as much, relative to its size, as the input.
                    self._weight[site.name] += change

    def mean(self, images: int) -> dict[str, SiteError]:
        """Returns site name -> mean over `images`."""

        def by_format(total: Tensor) -> dict[Format, float]:
            return {f: float(v) / images for f, v in zip(self.calibration.formats, total, strict=True)}

        return {
            name: SiteError(by_format(total), by_format(self._weight[name])) for name, total in self._activation.items()
        }

    def _weight_effects(self, x: Tensor, rho: Tensor, site: str) -> Tensor:
        """Returns the squared sum (x (W' - W)) rho of each image, summed over the batch, [formats]; windows of one
        image are summed before."""
        images = self._images(x)
        outer = x.reshape(images, -1, x.shape[-1]).transpose(1, 2) @ rho.reshape(images, -1, rho.shape[-1])
        errors = (self.calibration.weight_error(site, f) for f in self.calibration.formats)
        return torch.stack([outer.flatten(1) @ error.flatten() for error in errors], 1).square().sum(0)

    def _activation_effects(self, x: Tensor, coefficient: Tensor, name: str) -> Tensor:
        """Returns the squared sum (x' - x) rho of each image, summed over the batch, [formats]."""
        effects = []
        for format in self.calibration.formats:
            grid = self.calibration.grids[name, format]
            effects.append(((grid.apply(x) - grid.shift - x) * coefficient).reshape(self._images(x), -1).sum(1))
        return torch.stack(effects, 1).square().sum(0)

    def _images(self, x: Tensor) -> int:
        """Returns how many images the first axis of x holds: one for a tensor that does not come from the image and is
        the same for all, whose effects on them have independent signs and add up in the square."""
        return self._size if len(x) % self._size == 0 else 1
