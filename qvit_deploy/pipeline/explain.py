"""RelP on pairs of images: maps of every component, and those of exact patching where it was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.data.pairs.make import ImagePair
from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.patching.components import Component, find_components
from qvit_deploy.patching.relp import Attribution, Direction, attribute
from qvit_deploy.pipeline.exact_maps import ExactMaps
from qvit_deploy.pipeline.model_files import ModelFile
from qvit_deploy.progress import Advance
from qvit_deploy.relevance.differentiable import check_differentiable
from qvit_deploy.relevance.rule_sets import RULE_SETS, RuleSet
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Metric, Task

Tensor = torch.Tensor
Maps = Mapping[Component, np.ndarray]
"""Component -> one number per cell, [cells]."""


@dataclass(frozen=True)
class Side:
    """One image of a pair: what the model decides on it (`Task.answers`), if anything, and the metric there."""

    answer: int | None
    metric: float


@dataclass(frozen=True, eq=False)
class Truth:
    """What the estimates of one pair are compared with.

    Attributes:
        exact: effects of the patches themselves, float64.
        gradient: their estimates by the gradient gradient, float64.
    """

    exact: Maps
    gradient: Maps


@dataclass(frozen=True, eq=False)
class PairMaps:
    """One pair: its images, what the model makes of each, and its maps.

    Attributes:
        effects, distances, reached: see `Attribution`.
        truth: None without exact maps.
    """

    pair: ImagePair
    clean: Side
    corrupt: Side
    effects: Maps
    distances: Maps
    reached: Maps
    truth: Truth | None


@dataclass(frozen=True, eq=False)
class Explanation:
    """The maps of all pairs, and how they were made.

    Attributes:
        rules: name of the rule set.
        metric: as it was named.
        firings: rule name -> number of nodes it replaced.
    """

    components: tuple[Component, ...]
    rules: str
    metric: str
    direction: Direction
    firings: Mapping[str, int]
    pairs: tuple[PairMaps, ...]


def explain(
    model: ModelFile,
    pairs: Sequence[ImagePair],
    *,
    metric: str = "logit-diff",
    rules: str = "relp",
    secant_quantizers: bool = False,
    direction: Direction = "denoising",
    exact: ExactMaps | None = None,
    task: Task = CLASSIFY,
    advance: Advance = lambda _: None,
) -> Explanation:
    """Estimates the maps of all pairs; `advance` counts pairs.

    Args:
        metric: see `Task.parse_metric`.
        rules: name of a rule set.
        secant_quantizers: quantizers pass the slope of their secant on, not the gradient as it is.
        exact: the exact maps of the pairs, to compare the estimates with.
        task: what the outputs mean.

    Raises:
        InputError: no such metric or rule set, a graph without attention or with an operator that has no backward
            pass, identical images.
    """
    rule_set = rule_set_called(rules, secant_quantizers)
    check_differentiable(model.graph)
    metric_of_pair, components = task.parse_metric(metric), find_components(model.graph)
    estimator = _Estimator(model, rule_set, metric_of_pair, direction, task)
    # Exact maps are compared with the gradient's too; under the rules `gradient` those are there already.
    gradient = estimator if rules == "gradient" else None
    if exact is not None and gradient is None:
        gradient = _Estimator(model, RULE_SETS["gradient"], metric_of_pair, direction, task)
    maps = []
    for pair in pairs:
        estimate = estimator.attribution(pair, components)
        truth = None
        if exact is not None and gradient is not None:
            first_order = estimate if gradient is estimator else gradient.attribution(pair, components)
            truth = Truth(exact.of(pair, components), _of_one(first_order.effects))
        maps.append(_pair_maps(pair, estimate, truth))
        advance(1)
    return Explanation(components, rule_set.name, metric, direction, estimator.firings, tuple(maps))


def rule_set_called(name: str, secant_quantizers: bool) -> RuleSet:
    """Returns the rule set of that name. Raises InputError."""
    if name not in RULE_SETS:
        raise InputError(f"there is no rule set {name!r}; choose from {', '.join(RULE_SETS)}")
    return RULE_SETS[name].with_secant_quantizers() if secant_quantizers else RULE_SETS[name]


def image_batch(model: ModelFile, image: np.ndarray) -> Examples[Tensor]:
    """Returns `image` [C, H, W] as a batch of one, repeated to the batch of a graph that fixes one."""
    return Examples.images(torch.tensor(image)[None]).cycled(model.graph.static_batch or 1)


class _Estimator:
    """Estimates the effects of patches on a model by one rule set, for one pair at a time."""

    def __init__(self, model: ModelFile, rule_set: RuleSet, metric: Metric, direction: Direction, task: Task) -> None:
        bound = rule_set.bind(model.graph, model.graph.static_batch or 1)
        self._model, self._rule_set, self.firings = model, rule_set, bound.firings
        self._metric, self._direction, self._task = metric, direction, task
        self._executor = Executor(model.graph, overrides=bound.overrides)

    def attribution(self, pair: ImagePair, components: Sequence[Component]) -> Attribution:
        """Returns the estimated effects of all patches of `pair`."""
        clean, corrupt = (image_batch(self._model, image) for image in (pair.clean, pair.corrupt))
        return attribute(
            self._executor, self._rule_set, components, clean, corrupt, self._metric, self._task, self._direction
        )  # fmt: skip


def _pair_maps(pair: ImagePair, estimate: Attribution, truth: Truth | None) -> PairMaps:
    return PairMaps(
        pair=pair,
        clean=_side(estimate.clean_answers, estimate.clean),
        corrupt=_side(estimate.corrupt_answers, estimate.corrupt),
        effects=_of_one(estimate.effects),
        distances=_of_one(estimate.distances),
        reached=_of_one(estimate.reached),
        truth=truth,
    )


def _side(answers: np.ndarray | None, metric: np.ndarray) -> Side:
    return Side(None if answers is None else int(answers[0]), float(metric[0]))


def _of_one(maps: Mapping[Component, np.ndarray]) -> dict[Component, np.ndarray]:
    """Returns the maps of the first of a batch of pairs: a graph with a fixed batch runs one pair several times."""
    return {component: values[0] for component, values in maps.items()}
