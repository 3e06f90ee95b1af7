"""Finds the results that no other result dominates."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Returns for each point (its loss and its costs, less is better in all) whether it is on the Pareto front.

    A point is dominated by one that is no worse in every number and better in one; of equal points the first stays.
    """
    return [not any(_dominates(q, p, j < i) for j, q in enumerate(points)) for i, p in enumerate(points)]


def _dominates(one: Sequence[float], other: Sequence[float], is_first: bool) -> bool:
    no_worse = all(x <= y for x, y in zip(one, other, strict=True))
    return no_worse and (tuple(one) != tuple(other) or is_first)
