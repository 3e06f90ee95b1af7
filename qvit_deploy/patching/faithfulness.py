"""Faithfulness of circuits: how much of a decision the best-rated components carry when all others are corrupted.

The measures and their sizes are those of MIB (Mueller et al. 2025, arXiv 2504.13151, and its `evaluation.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import trapezoid

from qvit_deploy.errors import NonFiniteError

SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's circuit sizes, as shares of all components."""

Evaluate = Callable[[tuple[int, ...]], float]
"""Indices of the components that keep their clean activations, the others corrupted -> the metric m(C)."""


@dataclass(frozen=True)
class FaithfulnessCurve:
    """f(C) = (m(C) - m(corrupt)) / (m(clean) - m(corrupt)) for growing circuits C.

    Attributes:
        sizes: circuit sizes as shares of all components, increasing.
        counts: the number of components in each, size x components rounded down.
        metric: m(C) of each.
        clean: m with every component kept.
        corrupt: m with none.
        undefined: why there is no f, or None. A share of no effect says nothing.
    """

    sizes: tuple[float, ...]
    counts: tuple[int, ...]
    metric: tuple[float, ...]
    clean: float
    corrupt: float
    undefined: str | None

    @cached_property
    def faithfulness(self) -> tuple[float, ...] | None:
        """f of each size; below 0 where C is worse than nothing, above 1 where it is better than everything."""
        if self.undefined:
            return None
        return tuple((m - self.corrupt) / (self.clean - self.corrupt) for m in self.metric)

    @property
    def area(self) -> float | None:
        """Trapezoid area under f over `sizes`; with `signed_order`, MIB's CPR. Its value for f = 1 is the span of
        `sizes`, 0.999 for MIB's."""
        f = self.faithfulness
        return None if f is None else float(trapezoid(f, self.sizes))

    @property
    def distance(self) -> float | None:
        """Trapezoid area under |1 - f| over `sizes`; with `absolute_order`, MIB's CMD. 0 is best."""
        f = self.faithfulness
        return None if f is None else float(trapezoid(np.abs(1 - np.array(f)), self.sizes))


def signed_order(scores: ArrayLike) -> tuple[int, ...]:
    """Indices of `scores` (flattened), largest first, equal ones as they come: for CPR, which wants what helps."""
    return _order(np.asarray(scores, dtype=np.float64))


def absolute_order(scores: ArrayLike) -> tuple[int, ...]:
    """Indices of `scores` (flattened), largest magnitude first: for CMD, which wants all that matters."""
    return _order(np.abs(np.asarray(scores, dtype=np.float64)))


def cpr(scores: ArrayLike, evaluate: Evaluate) -> FaithfulnessCurve:
    """Returns the curve whose `area` is the circuit performance ratio of `scores`: higher is better."""
    return faithfulness_curve(signed_order(scores), evaluate)


def cmd(scores: ArrayLike, evaluate: Evaluate) -> FaithfulnessCurve:
    """Returns the curve whose `distance` is the circuit-model distance of `scores`: lower is better."""
    return faithfulness_curve(absolute_order(scores), evaluate)


def faithfulness_curve(order: Sequence[int], evaluate: Evaluate, sizes: Sequence[float] = SIZES) -> FaithfulnessCurve:
    """Evaluates the first components of `order`, as many as each of `sizes` says.

    Args:
        order: every component once, best first.
        evaluate: called once for each different number of components, for none and for all.
        sizes: shares in (0, 1], strictly increasing, at least two.

    Raises:
        NonFiniteError: the metric is NaN or infinite.
        ValueError: `order` is empty or repeats a component, or `sizes` is not as said.
    """
    if not order or len(set(order)) != len(order):
        raise ValueError("the order of components must name each of them once")
    if len(sizes) < 2 or sizes[0] <= 0 or sizes[-1] > 1 or any(b <= a for a, b in pairwise(sizes)):
        raise ValueError(f"circuit sizes must increase strictly within (0, 1], got {tuple(sizes)}")
    # 0.29 x 100 is 28.999...: a product this close to a whole number is that number.
    counts = tuple(math.floor(size * len(order) + 1e-9) for size in sizes)
    metric = {n: float(evaluate(tuple(order[:n]))) for n in sorted({0, *counts, len(order)})}
    bad = [n for n, m in metric.items() if not math.isfinite(m)]
    if bad:
        raise NonFiniteError(f"the metric is NaN or infinite with {bad[0]} of {len(order)} components kept")
    clean, corrupt = metric[len(order)], metric[0]
    same = abs(clean - corrupt) <= 1e-6 * max(abs(clean), abs(corrupt))
    return FaithfulnessCurve(
        sizes=tuple(sizes),
        counts=counts,
        metric=tuple(metric[n] for n in counts),
        clean=clean,
        corrupt=corrupt,
        undefined=f"the metric is {clean:.6g} clean and {corrupt:.6g} corrupted: no difference" if same else None,
    )


def _order(scores: np.ndarray) -> tuple[int, ...]:
    if not np.isfinite(scores).all():
        raise NonFiniteError("component scores are NaN or infinite")
    return tuple(np.argsort(-scores, axis=None, kind="stable").tolist())
