"""Comparisons that rewrites need to recognise a decomposed operator."""

from __future__ import annotations

import math


def last_axis(axes: list[int] | None, rank: int) -> bool:
    """Tells whether `axes` is exactly the last axis of a tensor of rank `rank`."""
    return axes is not None and len(axes) == 1 and axes[0] % rank == rank - 1


def close(a: float, b: float) -> bool:
    """Tells whether two numbers are equal up to the rounding of a half-precision export: a relative difference of
    2e-3."""
    return math.isclose(a, b, rel_tol=2e-3)
