"""Scores of a model with several outputs: layers that only feed one of them count like the others."""

from __future__ import annotations

import logging

import pytest

from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.scoring.rank import LossTable, rank_sites
from qvit_deploy.recipe import Recipe
from qvit_deploy.tasks.outputs import OUTPUTS
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate
from tests.support.graphs.several_outputs import two_heads

IMAGES = 32


def ranked(graph: Graph, score: str, calibrated: Calibrated | None = None) -> LossTable:
    calibrated = calibrated or calibrate(graph, (4, 8), images=IMAGES)
    recipe = Recipe(score=score, seed=3)  # type: ignore[arg-type]
    return rank_sites(
        calibrated.calibration(), recipe, (), image_batches(calibrated.images, 2), OUTPUTS, lambda _: None
    )


@pytest.mark.parametrize("score", ["gradient", "relp", "lrp", "exact"])
def test_every_layer_has_a_loss_whatever_output_it_feeds(score: str) -> None:
    table = ranked(two_heads(), score)
    assert {"class_neck", "class_head", "mask_neck", "mask_head"} <= set(table.errors)
    for error in table.errors.values():
        assert error.at(Int(4), Int(4)) > error.at(Int(8), Int(8)) > 0


def test_exact_losses_add_up_over_outputs() -> None:
    both, logits, mask = (ranked(two_heads(only=only), "exact").errors for only in (None, "logits", "mask"))
    for name in ("trunk.0", "trunk.1"):
        expected = logits[name].at(Int(4), Int(4)) + mask[name].at(Int(4), Int(4))
        assert both[name].at(Int(4), Int(4)) == pytest.approx(expected, rel=0.05)  # rows are sampled anew
    assert both["mask_neck"].at(Int(4), Int(4)) == pytest.approx(mask["mask_neck"].at(Int(4), Int(4)), rel=0.05)


def test_the_gradient_estimates_what_is_measured_at_both_outputs() -> None:
    calibrated = calibrate(two_heads(), (4, 8), images=IMAGES)
    gradient, exact = (ranked(calibrated.graph, score, calibrated) for score in ("gradient", "exact"))
    ratios = {n: e.at(Int(4), Int(4)) / exact.errors[n].at(Int(4), Int(4)) for n, e in gradient.errors.items()}
    # Powers are taken about the mean here and about zero there: a ratio for each output, and between them for the
    # trunk.
    for head in ("class", "mask"):
        assert ratios[f"{head}_neck"] == pytest.approx(ratios[f"{head}_head"], rel=0.3)
    low, high = sorted((ratios["class_neck"], ratios["mask_neck"]))
    assert low < ratios["trunk.0"] < high and low < ratios["trunk.1"] < high


@pytest.mark.parametrize("score", ["gradient", "relp", "exact"])
def test_a_layer_behind_which_an_argmax_lies_is_named_and_not_given_away(
    score: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        table = ranked(two_heads(with_best=True), score)
    assert "the outputs say nothing of 1 layers (best_head)" in caplog.text
    losses = {name: error.at(Int(4), Int(4)) for name, error in table.errors.items()}
    assert min(losses.values()) <= losses["best_head"] <= max(losses.values()) and losses["best_head"] > 0


def test_two_runs_give_the_same_losses() -> None:
    calibrated = calibrate(two_heads(), (4, 8), images=IMAGES)
    one, other = (ranked(calibrated.graph, "gradient", calibrated) for _ in range(2))
    assert one == other
