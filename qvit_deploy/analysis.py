"""What is known of a model before widths are chosen; an allocation under any budget is made from it in no time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from qvit_deploy.allocate.choose import choose, site_options
from qvit_deploy.allocate.cost import Allocation, Option, SiteCost
from qvit_deploy.allocate.latency import LatencyTable
from qvit_deploy.calibrate.observe import Observation, site_macs
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.calibration import Calibration
from qvit_deploy.quantize.rank import LossTable
from qvit_deploy.recipe import Recipe

Menu = Mapping[str, tuple[Option, ...]]
"""Site name -> the widths it may get."""

TableKey = tuple[str, str, int]


@dataclass(frozen=True, eq=False)
class Analysis:
    """A calibrated model, what its sites cost, and what every width loses there by one or several scores.

    Attributes:
        folded: the float model the plan rounds, without the factors in front of what nothing absorbs: it differs from
            the quantized graph at its sites only.
        tables: `table_key` of a recipe -> its loss table.
        latency: the recipe's latency table, if it has one.
    """

    calibration: Calibration
    folded: Graph
    costs: tuple[SiteCost, ...]
    tables: Mapping[TableKey, LossTable]
    latency: LatencyTable | None

    def table(self, recipe: Recipe) -> LossTable:
        """The loss table of `recipe`, one of those the analysis was made for."""
        return self.tables[table_key(recipe)]

    def allocate(self, recipe: Recipe) -> Allocation:
        """The widths with the least loss inside the budget of `recipe`. Raises BudgetError."""
        errors = self.table(recipe).errors
        options = menu(recipe, self.calibration.sites)
        loss = {n: {o: errors[n].at(o.w_bits, o.a_bits) for o in choices} for n, choices in options.items()}
        return choose(recipe, self.costs, options, loss)

    def loss(self, recipe: Recipe, allocation: Allocation) -> float:
        """What `allocation` loses, in the unit of the score of `recipe`."""
        errors = self.table(recipe).errors
        return math.fsum(errors[name].at(o.w_bits, o.a_bits) for name, o in allocation.items())


def table_key(recipe: Recipe) -> TableKey:
    """What of a recipe decides its loss table."""
    return recipe.score, recipe.rules, recipe.seed


def menu(recipe: Recipe, sites: Sequence[Site]) -> Menu:
    """The widths `recipe` lets every site choose from."""
    return site_options(recipe, [s.name for s in sites], [s.name for s in sites if s.weight])


def site_costs(
    sites: Sequence[Site],
    observations: Mapping[str, Observation],
    weights: Mapping[str, torch.Tensor],
    latencies: Mapping[str, Mapping[Option, int]],
) -> tuple[SiteCost, ...]:
    """The sizes of every site, with the nanoseconds of its options where `latencies` has them."""
    costs = []
    for site in sites:
        weight = weights.get(site.name)
        macs = site_macs(site, observations, None if weight is None else tuple(weight.shape))
        elements = observations[site.input].elements
        costs.append(SiteCost(site.name, site.params, macs, elements, latency_ns=latencies.get(site.name, {})))
    return tuple(costs)
