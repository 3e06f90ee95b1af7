"""RelP: what patching any component would change, estimated from two forward passes and one backward pass.

The estimate of a cell n is (n(x_source) - n(x_base)) . rho(n), where rho is what reaches n in the backward pass of the
base run under a rule set: RelP's coefficients with `relp` (arXiv 2508.21258, section 3), the gradient with `gradient`
(attribution patching, Syed et al. 2310.10348). *Denoising* patches the clean image's activations into the corrupt run
(base = corrupt), *noising* the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.patching import cells
from qvit_deploy.patching.components import Component
from qvit_deploy.relevance.lrp import propagate
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.tasks.task import Metric, Objective, Outputs, Task, arrays

Tensor = torch.Tensor
T = TypeVar("T")

Direction = Literal["denoising", "noising"]
Maps = Mapping[Component, np.ndarray]
"""Component -> float64 [pairs, cells]."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Estimated effects of patches on the metric, and the metric itself on both images.

    Attributes:
        effects: change of the metric when one cell is patched.
        distances: length of the difference that the patch makes, |n(x_source) - n(x_base)|: a baseline.
        reached: bool; False where the coefficient of a cell is exactly zero in every channel, because nothing of the
            cell reaches the metric (patch tokens behind the last attention of a class-token model).
        clean, corrupt: the metric on the two images, float64 [pairs].
        clean_answers, corrupt_answers: what the model decides on them (`Task.answers`), int64 [pairs], if anything.
    """

    effects: Maps
    distances: Maps
    reached: Maps
    clean: np.ndarray
    corrupt: np.ndarray
    clean_answers: np.ndarray | None
    corrupt_answers: np.ndarray | None


def attribute(
    executor: Executor,
    rule_set: RuleSet,
    components: Sequence[Component],
    clean: Examples[Tensor],
    corrupt: Examples[Tensor],
    metric: Metric,
    task: Task,
    direction: Direction = "denoising",
) -> Attribution:
    """Returns the effects of all patches of all pairs.

    Args:
        executor: with the overrides of `rule_set` bound to len(clean) images.
        clean, corrupt: the pairs.

    Raises:
        InputError: a pair whose images are the same.
        NonFiniteError: an output or a coefficient is NaN or infinite.
    """
    _check_different(clean, corrupt)
    pairs = len(clean)
    base, source = ordered(clean, corrupt, direction)
    readers: dict[str, list[Component]] = {}
    for component in components:
        readers.setdefault(component.tensor, []).append(component)
    with torch.no_grad():
        from_source = executor.run(source, fetch=list(dict.fromkeys([*readers, *executor.outputs])))
    source_outputs = {name: from_source[name] for name in executor.outputs}
    effects, distances, reached = (dict[Component, np.ndarray]() for _ in range(3))
    values: list[Tensor] = []

    def start(base_outputs: Outputs) -> Tensor:
        detached = {name: value.detach() for name, value in base_outputs.items()}
        objective = objective_of(metric, detached, source_outputs, direction)
        values.extend(v.detach() for v in ordered(objective(base_outputs), objective(source_outputs), direction))
        return rule_set.starting_at(objective)(base_outputs)

    def visit(name: str, activation: Tensor, g: Tensor) -> None:
        difference = from_source.pop(name) - activation
        for component in readers[name]:
            effects[component] = float64_array(cells.sums(component, difference * g, pairs))
            distances[component] = float64_array(cells.sums(component, difference.square(), pairs).sqrt())
            reached[component] = float64_array(cells.sums(component, g.abs(), pairs)) > 0

    base_outputs = propagate(executor, base, readers, visit, start)
    on_clean, on_corrupt = values
    answers = [task.answers(arrays(outputs)) for outputs in ordered(base_outputs, source_outputs, direction)]
    return Attribution(
        effects={c: effects[c] for c in components},
        distances={c: distances[c] for c in components},
        reached={c: reached[c] for c in components},
        clean=float64_array(on_clean),
        corrupt=float64_array(on_corrupt),
        clean_answers=answers[0],
        corrupt_answers=answers[1],
    )


def ordered(clean: T, corrupt: T, direction: Direction) -> tuple[T, T]:
    """Returns (clean, corrupt) as (base, source) of the patches, and (base, source) as (clean, corrupt)."""
    return (corrupt, clean) if direction == "denoising" else (clean, corrupt)


def objective_of(metric: Metric, base: Outputs, source: Outputs, direction: Direction) -> Objective:
    """Returns the objective of pairs whose outputs are known."""
    return metric(*ordered(base, source, direction))


def _check_different(clean: Examples[Tensor], corrupt: Examples[Tensor]) -> None:
    alike = [(value == corrupt.arrays[name]).flatten(1).all(1) for name, value in clean.arrays.items()]
    same = torch.stack(alike).all(0).nonzero().flatten().tolist()
    if same:
        raise InputError(
            f"clean and corrupt image of pair {same[0]} are the same to the model: a patch between them changes nothing"
        )


def float64_array(values: Tensor) -> np.ndarray:
    """Returns a tensor as a float64 numpy array, without its gradient."""
    result: np.ndarray = values.detach().cpu().double().numpy()
    return result
