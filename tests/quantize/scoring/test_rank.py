from __future__ import annotations

from typing import get_args

import pytest

from qvit_deploy import recipe
from qvit_deploy.formats.integer import Int
from qvit_deploy.quantize.calibration import RoundedCalibration
from qvit_deploy.quantize.scoring.losses import site_errors
from qvit_deploy.quantize.scoring.rank import SCORES, LossTable, Score, ScoringJob, rank_sites
from qvit_deploy.recipe import Recipe
from qvit_deploy.relevance.lrp import site_relevance
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.relevance.scores import Scores
from qvit_deploy.tasks.classify import CLASSIFY, largest_logit
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit

FREE = ("patch", "attn.q", "attn.k", "attn.v", "attn.qk", "attn.av", "attn.proj", "fc1", "fc2")


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (4, 8), attention=True)


@pytest.fixture(scope="module")
def calibration(calibrated: Calibrated) -> RoundedCalibration:
    return calibrated.calibration()


def ranked(calibrated: Calibrated, calibration: RoundedCalibration, **choices: object) -> LossTable:
    recipe = Recipe.model_validate(choices)
    return rank_sites(calibration, recipe, FREE, image_batches(calibrated.images, 2), CLASSIFY, lambda _: None)


@pytest.mark.parametrize("score", ["lrp", "relp", "gradient", "exact", "uniform", "random", "inverted"])
def test_every_score_gives_every_site_a_loss_and_a_share(
    calibrated: Calibrated, calibration: RoundedCalibration, score: str
) -> None:
    table = ranked(calibrated, calibration, score=score)
    names = [s.name for s in calibrated.sites]
    assert list(table.errors) == names and set(table.scores.values) == set(names)
    assert sum(table.scores.values.values()) == pytest.approx(1)
    assert min(table.scores.values.values()) >= 0 and score in table.scores.method
    for error in table.errors.values():
        assert error.at(Int(4), Int(4)) > error.at(Int(8), Int(8)) > 0


def test_lrp_weighs_errors_by_the_total_relevance(calibrated: Calibrated, calibration: RoundedCalibration) -> None:
    table = ranked(calibrated, calibration, score="lrp")
    mean = site_relevance(
        calibrated.graph,
        calibrated.sites,
        image_batches(calibrated.images, 2),
        RULE_SETS["attnlrp"],
        largest_logit,
        lambda _: None,
    )
    elements = {name: o.elements for name, o in calibrated.observations.items()}
    total = {
        s.name: mean.values[s.name] * (elements[s.input] + elements.get(s.second or "", 0)) for s in calibrated.sites
    }
    errors = site_errors(calibration)
    for name, value in total.items():
        assert table.scores.values[name] == pytest.approx(value / sum(total.values()), rel=1e-6)
        assert table.errors[name].at(Int(4), Int(8)) == pytest.approx(
            table.scores.values[name] * errors[name].at(Int(4), Int(8))
        )


def test_inverted_hands_the_shares_of_the_free_sites_on_in_reverse(
    calibrated: Calibrated, calibration: RoundedCalibration
) -> None:
    lrp, inverted = (ranked(calibrated, calibration, score=s).scores.values for s in ("lrp", "inverted"))
    order = sorted(FREE, key=lambda name: lrp[name])
    assert [inverted[name] for name in order] == [lrp[name] for name in reversed(order)]
    assert {n: inverted[n] for n in ("stem", "head")} == {n: lrp[n] for n in ("stem", "head")}


def test_random_deals_the_shares_of_the_free_sites_by_its_seed(
    calibrated: Calibrated, calibration: RoundedCalibration
) -> None:
    lrp = ranked(calibrated, calibration, score="lrp").scores.values
    dealt = [ranked(calibrated, calibration, score="random", seed=seed).scores.values for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1] != dealt[2] and lrp not in dealt
    for values in dealt:
        assert sorted(values.values()) == sorted(lrp.values())
        assert {n: values[n] for n in ("stem", "head")} == {n: lrp[n] for n in ("stem", "head")}


def test_the_recipe_names_the_scores_there_are() -> None:
    assert set(get_args(recipe.Score)) == set(SCORES)


def test_a_score_is_added_by_a_value(
    calibrated: Calibrated, calibration: RoundedCalibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the number of weights: what `bits per parameter` would say."""

    def by_size(job: ScoringJob) -> LossTable:
        errors, sizes = site_errors(job.calibration), {s.name: s.params + 1 for s in job.calibration.sites}
        shares = {name: size / sum(sizes.values()) for name, size in sizes.items()}
        table = {name: error.scaled(shares[name]) for name, error in errors.items()}
        return LossTable(table, Scores(shares, "size", 0, {}))

    monkeypatch.setitem(SCORES, "size", Score(by_size))
    choices = Recipe().model_copy(update={"score": "size"})
    table = rank_sites(calibration, choices, FREE, image_batches(calibrated.images, 2), CLASSIFY, lambda _: None)
    assert table.scores.method == "size"
    assert max(table.scores.values, key=lambda name: table.scores.values[name]) == "patch"
