"""What every width costs at every site, as the recipe's score sees it: the table the allocator minimises."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from qvit_deploy.progress import Advance
from qvit_deploy.quantize.calibration import RoundedCalibration
from qvit_deploy.quantize.scoring.exact import exact_sensitivity
from qvit_deploy.quantize.scoring.losses import SiteError, site_errors
from qvit_deploy.quantize.scoring.sensitivity import linear_sensitivity
from qvit_deploy.recipe import Recipe
from qvit_deploy.relevance.lrp import site_relevance
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.relevance.scores import Scores
from qvit_deploy.tasks.task import Task


@dataclass(frozen=True)
class LossTable:
    """The loss of every site by format and operand, and one score per site that says how much it matters.

    Losses of one table add up over sites; those of two scores have no common unit.
    """

    errors: Mapping[str, SiteError]
    scores: Scores


def rank_sites(
    calibration: RoundedCalibration,
    recipe: Recipe,
    free: Collection[str],
    batches: Iterable[Tensor],
    task: Task,
    advance: Advance,
) -> LossTable:
    """Returns the loss table of `recipe.score`.

    * `exact`: the measured squared change of the task's signal, for a classifier of the logits (`exact`).
    * `gradient`, `relp`: the first-order estimate of the change of the task's objective, by the gradient or by the
      coefficients of the `relp` rules (`sensitivity`).
    * the others: the relative error of the site's output (`losses`) times a share. `lrp`: its share of the absolute
      LRP relevance under `recipe.rules`. `uniform`: the same share for every site. `random` and `inverted` are what
      `lrp` is compared with: the same shares, dealt to the sites in `free` at random (by `recipe.seed`), or in
      reverse, so that the least relevant of them gets the share of the most relevant. The spread of the shares, and
      with it how far bits are moved, stays what it is under `lrp`.

    Args:
        free: sites whose width is open to choice; the others keep their share.
        batches: images to score on, float32 [b, C, H, W] each; not read for `uniform`.
        task: what the outputs mean.
        advance: counts images.
    """
    if recipe.score == "exact":
        losses, images = exact_sensitivity(calibration, batches, task, advance)
        return LossTable(losses, _narrowest(losses, "exact:sensitivity", images))
    if recipe.score in ("gradient", "relp"):
        rules = RULE_SETS[recipe.score]
        losses, images = linear_sensitivity(calibration, batches, rules, task.objective, advance)
        return LossTable(losses, _narrowest(losses, f"{recipe.score}:sensitivity", images))
    errors = site_errors(calibration)
    names = list(errors)
    if recipe.score == "uniform":
        scores = Scores(dict.fromkeys(names, 1 / len(names)), "uniform", 0, {})
    else:
        rules = RULE_SETS[recipe.rules]
        mean = site_relevance(calibration.graph, calibration.sites, batches, rules, task.objective, advance)
        scores = _totals(mean, calibration)
        movable = [name for name in names if name in free]
        if recipe.score == "random":
            dealt = np.random.default_rng(recipe.seed).permutation(movable).tolist()
            scores = _dealt(scores, "random", movable, dealt)
        elif recipe.score == "inverted":
            ranked = sorted(movable, key=lambda name: scores.values[name])
            scores = _dealt(scores, "inverted", ranked, ranked[::-1])
    return LossTable({name: error.scaled(scores.values[name]) for name, error in errors.items()}, scores)


def _totals(mean: Scores, calibration: RoundedCalibration) -> Scores:
    """Shares of the sum of |relevance| over a site's elements, from the mean per element.

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
    values = {name: loss.at(min(loss.weight), min(loss.activation)) for name, loss in losses.items()}
    total = sum(values.values()) or 1.0
    return Scores({name: value / total for name, value in values.items()}, method, images, {})
