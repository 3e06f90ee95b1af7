"""What every width costs at every site, as the recipe's score sees it: the table the allocator minimises."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from qvit_deploy.graph.examples import Examples
from qvit_deploy.progress import Advance
from qvit_deploy.quantize.calibration import RoundedCalibration
from qvit_deploy.quantize.scoring.exact import exact_sensitivity
from qvit_deploy.quantize.scoring.losses import SiteError, site_errors
from qvit_deploy.quantize.scoring.sensitivity import linear_sensitivity
from qvit_deploy.recipe import Recipe
from qvit_deploy.relevance.lrp import site_relevance
from qvit_deploy.relevance.objective import objective_on
from qvit_deploy.relevance.rule_sets import RULE_SETS, fitting
from qvit_deploy.relevance.scores import Scores
from qvit_deploy.tasks.task import Objective, Task


@dataclass(frozen=True)
class LossTable:
    """The loss of every site by format and operand, and one score per site that says how much it matters.

    Losses of one table add up over sites; those of two scores have no common unit.
    """

    errors: Mapping[str, SiteError]
    scores: Scores


@dataclass(frozen=True, eq=False)
class ScoringJob:
    """What a score is computed from.

    Attributes:
        recipe: its `rules` and `seed` matter to the scores that use them.
        free: names of the sites whose formats are open to choice; the others keep their share.
        batches: examples to score on.
        task: what the outputs mean.
        advance: counts images.
    """

    calibration: RoundedCalibration
    recipe: Recipe
    free: Collection[str]
    batches: Iterable[Examples[Tensor]]
    task: Task
    advance: Advance

    def objective(self) -> Objective:
        """Returns what a backward pass starts from."""
        return objective_on(self.calibration.graph, self.batches, self.task, self.recipe.seed)


@dataclass(frozen=True)
class Score:
    """A way to say what every format costs at every site.

    Attributes:
        rank: makes the loss table.
        images: on how many images it is computed, at most.
    """

    rank: Callable[[ScoringJob], LossTable]
    images: int = 32


def rank_sites(
    calibration: RoundedCalibration,
    recipe: Recipe,
    free: Collection[str],
    batches: Iterable[Examples[Tensor]],
    task: Task,
    advance: Advance,
) -> LossTable:
    """Returns the loss table of `recipe.score`; the arguments are those of a `ScoringJob`."""
    table = SCORES[recipe.score].rank(ScoringJob(calibration, recipe, free, batches, task, advance))
    return _with_unmeasured(table, calibration)


def _with_unmeasured(table: LossTable, calibration: RoundedCalibration) -> LossTable:
    """Returns `table` with a loss for the sites that it says lose nothing in any format.

    Such a site reaches the outputs only through an ArgMax or a comparison, where no gradient goes and small errors show
    nowhere until they flip an answer. It would get the narrowest format without a word; it is weighed like the average
    site instead, by the relative error of its own output.
    """
    unmeasured = [name for name, error in table.errors.items() if not _narrowest_loss(error) > 0]
    if not unmeasured:
        return table
    local = site_errors(calibration)
    measured = [name for name in table.errors if name not in unmeasured]
    ratios = [_narrowest_loss(table.errors[name]) / max(_narrowest_loss(local[name]), 1e-20) for name in measured]
    average = float(np.median(ratios)) if ratios else 1.0
    logging.getLogger(__name__).warning(
        "the outputs say nothing of %d layers (%s), which reach them through an ArgMax or a comparison only: "
        "they are weighed like the average layer",
        len(unmeasured), ", ".join(unmeasured[:3]),
    )  # fmt: skip
    errors = {
        name: local[name].scaled(average) if name in unmeasured else error for name, error in table.errors.items()
    }
    return replace(table, errors=errors)


def _measured(job: ScoringJob) -> LossTable:
    """Measures the squared change of the task's signals, for a classifier of the logits, format by format."""
    losses, images = exact_sensitivity(job.calibration, job.batches, job.task, job.advance)
    return LossTable(losses, _narrowest(losses, "exact:sensitivity", images))


def _first_order(name: str) -> Callable[[ScoringJob], LossTable]:
    """Returns the score that estimates the change of the task's objective to first order, by the coefficients that the
    backward pass of a rule set gives."""

    def rank(job: ScoringJob) -> LossTable:
        rules = fitting(RULE_SETS[name], job.calibration.graph, f"score {name}")
        losses, images = linear_sensitivity(job.calibration, job.batches, rules, job.objective(), job.advance)
        return LossTable(losses, _narrowest(losses, f"{rules.name}:sensitivity", images))

    return rank


def _shared(shares: Callable[[ScoringJob], Scores]) -> Callable[[ScoringJob], LossTable]:
    """Returns the score that takes the relative error of each site's output times the share that `shares` gives it."""

    def rank(job: ScoringJob) -> LossTable:
        errors, scores = site_errors(job.calibration), shares(job)
        return LossTable({name: error.scaled(scores.values[name]) for name, error in errors.items()}, scores)

    return rank


def _uniform(job: ScoringJob) -> Scores:
    """Gives all sites the same share; no image is read."""
    names = [site.name for site in job.calibration.sites]
    return Scores(dict.fromkeys(names, 1 / len(names)), "uniform", 0, {})


def _lrp(job: ScoringJob) -> Scores:
    """Gives each site its share of the absolute LRP relevance under `recipe.rules`."""
    calibration = job.calibration
    rules = fitting(RULE_SETS[job.recipe.rules], calibration.graph, "score lrp")
    mean = site_relevance(calibration.graph, calibration.sites, job.batches, rules, job.objective(), job.advance)
    return _totals(mean, calibration)


def _random(job: ScoringJob) -> Scores:
    """Deals the shares of `lrp` to the free sites at random, by `recipe.seed`.

    The spread of the shares, and with it how far bits are moved, stays what it is under `lrp`.
    """
    scores, movable = _lrp(job), _movable(job)
    return _dealt(scores, "random", movable, np.random.default_rng(job.recipe.seed).permutation(movable).tolist())


def _inverted(job: ScoringJob) -> Scores:
    """Deals the shares of `lrp` in reverse: the least relevant free site gets that of the most relevant."""
    scores = _lrp(job)
    ranked = sorted(_movable(job), key=lambda name: scores.values[name])
    return _dealt(scores, "inverted", ranked, ranked[::-1])


def _movable(job: ScoringJob) -> list[str]:
    return [site.name for site in job.calibration.sites if site.name in job.free]


SCORES: dict[str, Score] = {
    "exact": Score(_measured, images=8),  # hundreds of forward passes an image
    "gradient": Score(_first_order("gradient")),
    "relp": Score(_first_order("relp")),
    "uniform": Score(_shared(_uniform)),
    "lrp": Score(_shared(_lrp)),
    "random": Score(_shared(_random)),
    "inverted": Score(_shared(_inverted)),
}
"""Scores by name; `recipe.Score` names the same. `random` and `inverted` are what `lrp` is compared with."""


def _totals(mean: Scores, calibration: RoundedCalibration) -> Scores:
    """Returns shares of the sum of |relevance| over a site's elements, from the mean per element.

    An error of a site moves all of its elements, so a layer four times as wide counts four times.
    """
    elements = {name: o.elements for name, o in calibration.observations.items()}
    totals = {
        s.name: mean.values[s.name] * (elements[s.input] + (0 if s.second is None else elements[s.second]))
        for s in calibration.sites
    }
    network = sum(totals.values())
    return replace(mean, values={name: total / network for name, total in totals.items()})


def _dealt(scores: Scores, how: str, givers: list[str], receivers: list[str]) -> Scores:
    """Returns `scores` with the value of every giver handed to the receiver at its place."""
    swapped = {to: scores.values[giver] for giver, to in zip(givers, receivers, strict=True)}
    return replace(scores, values={**scores.values, **swapped}, method=f"{how}:{scores.method}")


def _narrowest(losses: Mapping[str, SiteError], method: str, images: int) -> Scores:
    """Returns each site's share of the loss with every site in the cheapest format."""
    values = {name: _narrowest_loss(loss) for name, loss in losses.items()}
    total = sum(values.values()) or 1.0
    return Scores({name: value / total for name, value in values.items()}, method, images, {})


def _narrowest_loss(error: SiteError) -> float:
    return error.at(min(error.weight), min(error.activation))
