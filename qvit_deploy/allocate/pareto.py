"""Many budgets, one calibration: the allocations worth having."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qvit_deploy.allocate.cost import Allocation, Budget, Cost, Option, SiteCost, total_cost
from qvit_deploy.allocate.solve import solve


@dataclass(frozen=True)
class Point:
    """The best allocation for one budget, its total loss and its cost."""

    budget: Budget
    allocation: Allocation
    loss: float
    cost: Cost


def pareto(
    sites: Sequence[SiteCost],
    options: Mapping[str, Sequence[Option]],
    loss: Mapping[str, Mapping[Option, float]],
    budgets: Sequence[Budget],
) -> list[Point]:
    """One Point per budget, in order, less those another point dominates.

    A point is dominated by one that is no worse in loss, mean bits, weight bytes and BitOps, and better in one of
    them; of equal points the first stays. Raises what `solve` raises.
    """
    points = []
    for budget in budgets:
        allocation = solve(sites, options, loss, budget)
        total = math.fsum(loss[name][option] for name, option in allocation.items())
        points.append(Point(budget, allocation, total, total_cost(sites, allocation)))
    return [p for i, p in enumerate(points) if not any(_beats(q, p, j < i) for j, q in enumerate(points))]


def _beats(one: Point, other: Point, first: bool) -> bool:
    a, b = ((p.loss, *vars(p.cost).values()) for p in (one, other))
    no_worse = all(x <= y for x, y in zip(a, b, strict=True))
    return no_worse and (a != b or first)
