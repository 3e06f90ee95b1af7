"""RelP: what patching any component would change, estimated from two forward passes and one backward pass.

The estimate of a cell n is (n(x_source) - n(x_base)) . rho(n), where rho is what reaches n in the backward pass of the
base run under a rule set: RelP's coefficients with `relp` (arXiv 2508.21258, section 3), the gradient with `gradient`
(attribution patching, Syed et al. 2310.10348). *Denoising* patches the clean image's activations into the corrupt run
(base = corrupt), *noising* the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.patching import cells
from qvit_deploy.patching.components import Component
from qvit_deploy.relevance.lrp import propagate
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.tasks.objective import Metric, Objective

Tensor = torch.Tensor

Direction = Literal["denoising", "noising"]
Maps = Mapping[Component, np.ndarray]
"""Component -> float64 [pairs, cells]."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Estimated effects of patches on the metric, and what goes with them.

    Attributes:
        effects: change of the metric when one cell is patched.
        distances: length of the difference that the patch makes, |n(x_source) - n(x_base)|: a baseline.
        reached: bool; False where the coefficient of a cell is exactly zero in every channel, because nothing of the
            cell reaches the metric (patch tokens behind the last attention of a class-token model).
        clean, corrupt: the metric on the two images, float64 [pairs].
        clean_classes, corrupt_classes: predicted, int64 [pairs].
    """

    effects: Maps
    distances: Maps
    reached: Maps
    clean: np.ndarray
    corrupt: np.ndarray
    clean_classes: np.ndarray
    corrupt_classes: np.ndarray


def attribute(
    executor: Executor,
    rule_set: RuleSet,
    components: Sequence[Component],
    clean: Tensor,
    corrupt: Tensor,
    metric: Metric,
    direction: Direction = "denoising",
) -> Attribution:
    """The effects of all patches of all pairs.

    Args:
        executor: with the overrides of `rule_set` bound to len(clean) images.
        clean, corrupt: float32 [pairs, C, H, W].

    Raises:
        InputError: a pair whose images are the same.
        NonFiniteError: the logits or a coefficient are NaN or infinite.
    """
    _check_different(clean, corrupt)
    pairs = len(clean)
    base, source = ordered(clean, corrupt, direction)
    readers: dict[str, list[Component]] = {}
    for component in components:
        readers.setdefault(component.tensor, []).append(component)
    output = executor.graph.outputs[0].name or ""
    with torch.no_grad():
        wanted = executor.run(source, fetch=list(dict.fromkeys([*readers, output])))
    source_logits = wanted[output]
    effects, distances, reached = (dict[Component, np.ndarray]() for _ in range(3))
    values: list[Tensor] = []

    def start(base_logits: Tensor) -> Tensor:
        objective = objective_of(metric, base_logits.detach(), source_logits, direction)
        values.extend(v.detach() for v in ordered(objective(base_logits), objective(source_logits), direction))
        return rule_set.starting_at(objective)(base_logits)

    def visit(name: str, activation: Tensor, g: Tensor) -> None:
        difference = wanted.pop(name) - activation
        for component in readers[name]:
            effects[component] = _numpy(cells.sums(component, difference * g, pairs))
            distances[component] = _numpy(cells.sums(component, difference.square(), pairs).sqrt())
            reached[component] = _numpy(cells.sums(component, g.abs(), pairs)) > 0

    base_logits = propagate(executor, base, readers, visit, start)
    on_clean, on_corrupt = values
    classes = [logits.argmax(1).cpu().numpy() for logits in ordered(base_logits, source_logits, direction)]
    return Attribution(
        effects={c: effects[c] for c in components},
        distances={c: distances[c] for c in components},
        reached={c: reached[c] for c in components},
        clean=_numpy(on_clean),
        corrupt=_numpy(on_corrupt),
        clean_classes=classes[0],
        corrupt_classes=classes[1],
    )


def ordered(clean: Tensor, corrupt: Tensor, direction: Direction) -> tuple[Tensor, Tensor]:
    """(clean, corrupt) as (base, source) of the patches, and (base, source) as (clean, corrupt)."""
    return (corrupt, clean) if direction == "denoising" else (clean, corrupt)


def objective_of(metric: Metric, base_logits: Tensor, source_logits: Tensor, direction: Direction) -> Objective:
    """The objective of pairs whose logits are known, each [pairs, classes]."""
    return metric(*ordered(base_logits, source_logits, direction))


def _check_different(clean: Tensor, corrupt: Tensor) -> None:
    same = (clean == corrupt).flatten(1).all(1).nonzero().flatten().tolist()
    if same:
        raise InputError(
            f"clean and corrupt image of pair {same[0]} are the same to the model: a patch between them changes nothing"
        )


def _numpy(values: Tensor) -> np.ndarray:
    result: np.ndarray = values.detach().cpu().double().numpy()
    return result
