"""Which of several results are worth having."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[Sequence[float]]) -> list[bool]:
    """For each point (what it loses and what it costs, less is better in all) whether no other one dominates it.

    A point is dominated by one that is no worse in every number and better in one; of equal points the first stays.
    """
    return [not any(_beats(q, p, j < i) for j, q in enumerate(points)) for i, p in enumerate(points)]


def _beats(one: Sequence[float], other: Sequence[float], first: bool) -> bool:
    no_worse = all(x <= y for x, y in zip(one, other, strict=True))
    return no_worse and (tuple(one) != tuple(other) or first)
