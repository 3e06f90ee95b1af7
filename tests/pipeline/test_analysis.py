from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.allocate.cost import Option, total_cost
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import BudgetError
from qvit_deploy.formats.integer import Int
from qvit_deploy.frontend import Source
from qvit_deploy.pipeline.analysis import Analysis, analyse
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.inputs import Inputs, open_inputs
from qvit_deploy.progress import Stopwatch
from qvit_deploy.recipe import Recipe
from tests.support.graphs.quantizable_graphs import mixed_vit

BASE = Recipe(calibration_images=8, score="gradient", bits=(3, 5, 8))
RECIPES = [
    *(BASE.model_copy(update={"mean_bits": b}) for b in (3.5, 5.0, 7.0)),
    BASE.model_copy(update={"uniform": "w4a6"}),
    *(BASE.model_copy(update={"mean_bits": 5.0, "score": "random", "seed": s}) for s in (0, 1)),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    path = tmp_path_factory.mktemp("images") / "calib.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8))
    options = InputOptions(str(path), preprocess=Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,)))
    return open_inputs(Source(mixed_vit(), None, "a graph"), options, BASE, Stopwatch())


@pytest.fixture(scope="module")
def analysis(inputs: Inputs) -> Analysis:
    return analyse(inputs, RECIPES, Stopwatch())


def test_every_budget_is_kept_and_more_bits_lose_less(analysis: Analysis) -> None:
    losses = []
    for recipe in RECIPES[:3]:
        allocation = analysis.allocate(recipe)
        free = [c for c in analysis.costs if c.name not in ("stem", "head")]
        cost = total_cost(free, allocation)
        assert recipe.mean_bits is not None and max(cost.mean_w_bits, cost.mean_a_bits) <= recipe.mean_bits
        losses.append(analysis.loss(recipe, allocation))
    assert losses[0] > losses[1] > losses[2] > 0


def test_a_width_outside_the_menu_can_be_asked_for_everywhere(analysis: Analysis) -> None:
    allocation = analysis.allocate(RECIPES[3])
    assert {o for n, o in allocation.items() if n not in ("stem", "head")} == {Option(Int(4), Int(6))}
    assert analysis.calibration.formats == tuple(map(Int, (3, 4, 5, 6, 8)))


def test_scores_and_seeds_have_tables_of_their_own(analysis: Analysis) -> None:
    assert len(analysis.tables) == 3
    one, other = (analysis.table(r).scores.values for r in RECIPES[4:])
    assert one != other


def test_one_analysis_for_many_is_that_for_each(inputs: Inputs, analysis: Analysis) -> None:
    alone = analyse(inputs, [RECIPES[1]], Stopwatch())
    assert alone.allocate(RECIPES[1]) == analysis.allocate(RECIPES[1])


def test_recipes_that_would_be_calibrated_differently_are_refused(inputs: Inputs) -> None:
    with pytest.raises(ValueError, match="recipes of one analysis differ in"):
        analyse(inputs, [RECIPES[0], RECIPES[0].model_copy(update={"compensate": "none"})], Stopwatch())


def test_a_budget_that_cannot_be_met_stops_it_before_the_long_stages(inputs: Inputs) -> None:
    watch = Stopwatch()
    with pytest.raises(BudgetError, match="smallest possible is 3"):
        analyse(inputs, [RECIPES[0], BASE.model_copy(update={"mean_bits": 2.5})], watch)
    assert "ranges" not in watch.seconds and "relevance" not in watch.seconds
