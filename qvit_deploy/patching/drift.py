"""Quantization seen as a patch: which site, token and block causes how much of the change of the outputs.

The two graphs of a bundle agree tensor by tensor outside the sites. So the float graph is run once with every site's
output replaced by the quantized run's: each site then computes its float result on *quantized* inputs, and the
difference to the quantized result, e_s, is what this site alone adds. Between the sites that run computes what the
quantized one does, which is checked at every site's input: so the errors e_s are all there is between the graphs.

The metric's change is then the sum over sites of e_s . rho_s to first order, with rho_s the coefficient of the site's
output under a rule set. Coefficients at the float run and at the replaced run are averaged (the trapezoidal rule along
the path from float to quantized), which takes the second-order term along: with the gradient the sum misses the true
change by a few percent at 4 to 6 bits, where one end alone misses by twenty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.sites import Site
from qvit_deploy.patching.relp import float64_array
from qvit_deploy.relevance.lrp import propagate
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.tasks.task import Metric, Objective, Outputs, Task, arrays

Tensor = torch.Tensor

UNEXPLAINED = 1e-3
"""Largest difference between a site's input in the quantized graph and in the float graph with every site's output
replaced, relative to the tensor's largest value: the graphs round differently where one of them folds a factor."""


@dataclass(frozen=True, eq=False)
class Drift:
    """What quantization did to the metric on some images.

    Attributes:
        effects: site name -> estimated change of the metric caused there, float64 [images, rows]; rows are what lies
            along the last axis of the site's output, in memory order, heads summed.
        errors: site name -> |e_s| / |its float output|, over all images.
        in_order: names of sites whose rows are the tokens of the image in order (windows are not).
        before, after: the metric of the float and of the quantized graph, float64 [images].
        answers_before, answers_after: what they decide (`Task.answers`), int64 [images], if anything.
        unexplained: largest difference of a site's input that no site accounts for, relative to its largest value.
    """

    effects: Mapping[str, np.ndarray]
    errors: Mapping[str, float]
    in_order: frozenset[str]
    before: np.ndarray
    after: np.ndarray
    answers_before: np.ndarray | None
    answers_after: np.ndarray | None
    unexplained: float

    @property
    def estimated(self) -> np.ndarray:
        """The sum of all effects, float64 [images]; to be compared with `after - before`."""
        total: np.ndarray = np.sum([e.sum(1) for e in self.effects.values()], axis=0)
        return total


def quantization_drift(
    executor: Executor,
    quantized: Executor,
    rule_set: RuleSet,
    sites: Sequence[Site],
    images: Examples[Tensor],
    metric: Metric,
    task: Task,
) -> Drift:
    """Returns the drift on `images`: two runs of the float graph, each with its backward pass, and
    one of the quantized graph.

    Args:
        executor: of the float graph, with the overrides of `rule_set` bound to n images.
        sites: those that are quantized, with the tensor names of the float graph.
        metric: called with the outputs (float, quantized).

    Raises:
        CheckError: the graphs differ outside the sites.
        NonFiniteError: an output or a coefficient is NaN or infinite.
    """
    inputs = {n for s in sites for n in (s.input, s.second) if n is not None} - {s.output for s in sites}
    with torch.no_grad():
        names = dict.fromkeys([*inputs, *(s.output for s in sites), *quantized.outputs])
        after = quantized.run(images, fetch=list(names))
    outputs_after = {name: after[name] for name in quantized.outputs}
    passes = _Passes(sites, after, len(images))
    objectives: list[Objective] = []

    def start(outputs: Outputs) -> Tensor:
        if not objectives:
            objectives.append(metric({name: value.detach() for name, value in outputs.items()}, outputs_after))
        return rule_set.starting_at(objectives[0])(outputs)

    by_output = passes.by_output
    before = propagate(executor, images, by_output, passes.visit_float, start)
    replaced = {name: after[name] for name in by_output}
    propagate(executor, images, inputs | by_output.keys(), passes.visit_replaced, start, replaced)
    return Drift(
        effects={site.name: float64_array(passes.effects[name]) for name, site in by_output.items()},
        errors={site.name: passes.errors[name] for name, site in by_output.items()},
        in_order=frozenset(s.name for s in sites if after[s.output].shape[0] == len(images)),
        before=float64_array(objectives[0](before)),
        after=float64_array(objectives[0](outputs_after)),
        answers_before=task.answers(arrays(before)),
        answers_after=task.answers(arrays(outputs_after)),
        unexplained=passes.unexplained(),
    )


class _Passes:
    """What the two backward passes leave at sites and at what they read.

    Attributes:
        by_output: tensor that a site writes -> the site.
        effects: the same tensor -> estimated change of the metric, [images, rows].
        errors: the same tensor -> |e_s| / |its float output|.
    """

    def __init__(self, sites: Sequence[Site], after: Mapping[str, Tensor], images: int) -> None:
        self.by_output = {site.output: site for site in sites}
        self.effects: dict[str, Tensor] = {}
        self.errors: dict[str, float] = {}
        self._after, self._images = after, images
        self._coefficients: dict[str, Tensor] = {}
        self._differences: dict[str, float] = {}

    def visit_float(self, name: str, _: Tensor, g: Tensor) -> None:
        """Keeps the coefficients of the float run."""
        self._coefficients[name] = g

    def visit_replaced(self, name: str, float_value: Tensor, g: Tensor) -> None:
        """Records the effect of a site's error, or how far an input is from the quantized run's."""
        after = self._after[name]
        error = after - float_value
        site = self.by_output.get(name)
        if site is None:
            self._differences[name] = float(error.abs().max() / after.abs().max().clamp(min=1e-12))
            return
        self.effects[name] = _rows(site, error * (g + self._coefficients.pop(name)) / 2, self._images)
        power = float(float_value.square().sum())
        self.errors[name] = (float(error.square().sum()) / max(power, 1e-30)) ** 0.5

    def unexplained(self) -> float:
        """Returns the largest difference that no site accounts for, relative. Raises CheckError above `UNEXPLAINED`."""
        worst = max(self._differences, key=self._differences.__getitem__)
        difference = self._differences[worst]
        if difference > UNEXPLAINED:
            raise CheckError(
                f"the float and the quantized model differ outside their quantized layers (tensor {worst!r} by "
                f"{difference:.1e} of its range); they are not of one compile, or a fold went wrong"
            )
        return difference


def _rows(site: Site, effect: Tensor, batch: int) -> Tensor:
    """Returns [batch, rows]: summed over the last axis, and over heads for an attention product."""
    if site.kind in ("matmul_qk", "matmul_av") and effect.ndim == 4:
        effect = effect.sum(1)
    if site.kind == "conv":
        effect = effect.flatten(2).transpose(1, 2)
    return effect.sum(-1).reshape(batch, -1)
