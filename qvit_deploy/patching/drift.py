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
from qvit_deploy.graph.sites import Site
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
        answers_before, answers_after: what they decide (`Task.answers`), int64 [images].
        unexplained: largest difference of a site's input that no site accounts for, relative to its largest value.
    """

    effects: Mapping[str, np.ndarray]
    errors: Mapping[str, float]
    in_order: frozenset[str]
    before: np.ndarray
    after: np.ndarray
    answers_before: np.ndarray
    answers_after: np.ndarray
    unexplained: float

    @property
    def estimated(self) -> np.ndarray:
        """The sum of all effects, float64 [images]; to be held against `after - before`."""
        total: np.ndarray = np.sum([e.sum(1) for e in self.effects.values()], axis=0)
        return total


def quantization_drift(
    executor: Executor,
    quantized: Executor,
    rule_set: RuleSet,
    sites: Sequence[Site],
    images: Tensor,
    metric: Metric,
    task: Task,
) -> Drift:
    """The drift on `images` float32 [n, C, H, W]: two runs of the float graph, each with its backward pass, and one of
    the quantized graph.

    Args:
        executor: of the float graph, with the overrides of `rule_set` bound to n images.
        sites: those that are quantized, with the tensor names of the float graph.
        metric: called with the outputs (float, quantized).

    Raises:
        CheckError: the graphs differ outside the sites.
        NonFiniteError: an output or a coefficient is NaN or infinite.
    """
    by_output = {site.output: site for site in sites}
    inputs = {n for s in sites for n in (s.input, s.second) if n is not None} - by_output.keys()
    with torch.no_grad():
        after = quantized.run(images, fetch=list(dict.fromkeys([*inputs, *by_output, *quantized.outputs])))
    outputs_after = {name: after[name] for name in quantized.outputs}
    effects = {name: torch.zeros(0) for name in by_output}
    sizes = {name: (0.0, 0.0) for name in by_output}
    coefficients: dict[str, Tensor] = {}

    def keep(name: str, _: Tensor, g: Tensor) -> None:
        coefficients[name] = g

    differences = dict.fromkeys(inputs, 0.0)

    def add(name: str, own: Tensor, g: Tensor) -> None:
        error = after[name] - own
        if name in inputs:
            differences[name] = float(error.abs().max() / after[name].abs().max().clamp(min=1e-12))
            return
        effects[name] = _rows(by_output[name], error * (g + coefficients.pop(name)) / 2, len(images))
        sizes[name] = float(error.square().sum()), float(own.square().sum())

    objectives: list[Objective] = []

    def start(outputs: Outputs) -> Tensor:
        if not objectives:
            objectives.append(metric({name: value.detach() for name, value in outputs.items()}, outputs_after))
        return rule_set.starting_at(objectives[0])(outputs)

    before = propagate(executor, images, by_output, keep, start)
    propagate(executor, images, inputs | by_output.keys(), add, start, {n: after[n] for n in by_output})
    worst = max(differences, key=differences.__getitem__)
    if differences[worst] > UNEXPLAINED:
        raise CheckError(
            f"the float and the quantized model differ outside their quantized layers (tensor {worst!r} by "
            f"{differences[worst]:.1e} of its range); they are not of one compile, or a fold went wrong"
        )
    return Drift(
        effects={by_output[name].name: e.cpu().double().numpy() for name, e in effects.items()},
        errors={by_output[name].name: (e / max(y, 1e-30)) ** 0.5 for name, (e, y) in sizes.items()},
        in_order=frozenset(s.name for s in sites if after[s.output].shape[0] == len(images)),
        before=_numpy(objectives[0](before)),
        after=_numpy(objectives[0](outputs_after)),
        answers_before=task.answers(arrays(before)),
        answers_after=task.answers(arrays(outputs_after)),
        unexplained=differences[worst],
    )


def _rows(site: Site, effect: Tensor, batch: int) -> Tensor:
    """[batch, rows]: summed over the last axis, and over heads for an attention product."""
    if site.kind in ("matmul_qk", "matmul_av") and effect.ndim == 4:
        effect = effect.sum(1)
    if site.kind == "conv":
        effect = effect.flatten(2).transpose(1, 2)
    return effect.sum(-1).reshape(batch, -1)


def _numpy(values: Tensor) -> np.ndarray:
    result: np.ndarray = values.detach().cpu().double().numpy()
    return result
