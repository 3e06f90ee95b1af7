from __future__ import annotations

import pytest

from qvit_deploy.allocate.cost import Budget, Option, SiteCost
from qvit_deploy.allocate.pareto import pareto
from qvit_deploy.errors import BudgetError

W4, W6, W8 = Option(4, 4), Option(6, 6), Option(8, 8)
SITES = [SiteCost("a", 100, 100, 10), SiteCost("b", 100, 100, 10)]
OPTIONS = {"a": [W4, W6, W8], "b": [W4, W6, W8]}
LOSS = {"a": {W4: 4.0, W6: 1.0, W8: 0.0}, "b": {W4: 2.0, W6: 0.5, W8: 0.0}}


def test_one_point_per_budget_and_loss_falls_as_the_budget_grows():
    budgets = [Budget(mean_w_bits=b) for b in (4, 5, 6, 8)]
    points = pareto(SITES, OPTIONS, LOSS, budgets)
    assert [p.budget for p in points] == budgets
    assert [p.loss for p in points] == [6.0, 3.0, 1.5, 0.0]
    assert [p.cost.mean_w_bits for p in points] == [4, 5, 6, 8]
    assert points[1].allocation == {"a": W6, "b": W4}


def test_equal_points_keep_the_first():
    points = pareto(SITES, OPTIONS, LOSS, [Budget(mean_w_bits=5.5), Budget(mean_w_bits=5.0)])
    assert [p.budget.mean_w_bits for p in points] == [5.5]


def test_a_dominated_point_is_dropped_wherever_it_stands():
    """Equal losses: the loose budget buys bits (a tie goes to more bits) that the tight one shows to be useless."""
    flat = {name: dict.fromkeys([W4, W8], 0.0) for name in LOSS}
    options = {name: [W4, W8] for name in LOSS}
    loose, tight = Budget(mean_w_bits=8), Budget(mean_w_bits=4)
    for budgets in ([loose, tight], [tight, loose]):
        assert [p.budget for p in pareto(SITES, options, flat, budgets)] == [tight]


def test_a_budget_nothing_fits_is_an_error_not_a_gap():
    with pytest.raises(BudgetError):
        pareto(SITES, OPTIONS, LOSS, [Budget(mean_w_bits=8), Budget(mean_w_bits=3)])
