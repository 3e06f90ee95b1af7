"""Solves the multiple-choice knapsack exactly: HiGHS searches, integer arithmetic checks its answer.

There is one group per site with one item per option, laid out flat; one item of each group is picked (Kellerer,
Pferschy and Pisinger, "Knapsack Problems", 2004, chapter 11).
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from qvit_deploy.errors import BudgetError

log = logging.getLogger(__name__)

# HiGHS's tolerances are absolute: 1e-6 on a row, 1e-6 between the best found and the best possible objective. Losses
# are scaled to this, rows at most to it, so that both mean about 1e-12 of the largest number in play.
_SCALE = 1e6
# Losses closer than this share of the largest difference are equal: ten times the tolerance above.
_TIE = 1e-11
# A count of nodes and not of seconds, so that the same input gives the same answer on a busy machine. Real networks
# repeat a few layer sizes and need hundreds; only large coprime sizes with losses proportional to them need more.
_NODES = 2000
# The searches before and after the one that counts: for a first answer, and among equals.
_SIDE_NODES = 200
# Answers refused because they are over a limit by less than HiGHS can see; more than one is a rarity.
_CUTS = 50


@dataclass(frozen=True)
class Row:
    """The constraint that the `counts` of the picked items sum to at most `limit`, in Python's exact integers."""

    counts: tuple[int, ...]
    limit: int


class Knapsack:
    """An instance of the problem.

    Args:
        groups: how many items each group has.
        rows: the constraints; their counts go through the items group after group.
    """

    def __init__(self, groups: Sequence[int], rows: Sequence[Row]) -> None:
        items = sum(groups)
        self.rows = tuple(rows)
        self._group = np.repeat(np.arange(len(groups)), groups)
        self._starts = np.cumsum([0, *groups[:-1]])
        self._pick_one = csr_array((np.ones(items), (self._group, np.arange(items))), shape=(len(groups), items))
        scaled = [self._scaled(row) for row in rows]
        self._matrix = np.array([counts for counts, _ in scaled]).reshape(len(rows), items)
        self._limits = np.array([limit for _, limit in scaled])

    def fits(self, picks: Sequence[int]) -> bool:
        """Returns whether the items `picks` keep every limit, computed exactly."""
        return all(sum(row.counts[i] for i in picks) <= row.limit for row in self.rows)

    def minimize(self, loss: Sequence[float], prefer: Sequence[int]) -> list[int] | None:
        """Picks one item per group (flat indices) with the least total `loss`; returns None if nothing fits.

        Among equal losses the largest total of `prefer` wins. A warning is logged when an answer is not proven optimal.

        Raises:
            BudgetError: the search ends with neither an answer nor a proof that there is none.
        """
        excess = self._above_least(np.array(loss, float))
        excess *= _SCALE / (excess.max() or 1.0)

        # Prices for the rows come from the linear relaxation. Whatever they are, `floor` is a lower bound, and an
        # item whose `regret` lifts it above the loss of a known answer is in no better answer (Lagrangian reduced
        # costs).
        prices = self._prices(excess)
        priced = excess + prices @ self._matrix
        regret = self._above_least(priced)
        floor = float(np.minimum.reduceat(priced, self._starts).sum() - prices @ self._limits)

        # First a good answer from the best few items of each group, then the best, with proof, from all that can be
        # in it. That is several times faster than all items at once.
        promising = regret <= np.sort(regret)[: 3 * len(self._starts)][-1]
        picks, proven = self._search(excess, promising, _SIDE_NODES)
        useful = self._useful(excess, regret, floor, picks)
        if not proven or (useful & ~promising).any():
            better, proven = self._search(excess, useful, _NODES)
            picks = better or picks
            useful = self._useful(excess, regret, floor, picks)
        if picks is None:
            if proven:
                return None
            raise BudgetError(f"no allocation was found in {_NODES} steps of search; loosen the budget a little")
        if not proven:
            gap = (excess[picks].sum() - floor) / max(excess[picks].sum(), 1.0)
            log.warning("the allocation is not proven the best; its loss is at most %.2g%% more", 100 * gap)
            return picks

        best = math.fsum(excess[picks]) + _TIE * _SCALE
        tied, _ = self._search(self._above_least(-np.array(prefer, float)), useful, _SIDE_NODES, (excess, best))
        if tied is None or math.fsum(excess[tied]) > best + _TIE * _SCALE:
            return picks
        return max(picks, tied, key=lambda chosen: sum(prefer[i] for i in chosen))

    def _above_least(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Subtracts from every item's value the least of its group."""
        return values - np.minimum.reduceat(values, self._starts)[self._group]

    def _scaled(self, row: Row) -> tuple[NDArray[np.float64], float]:
        """Returns (counts, limit) of the row relative to each group's least count, scaled to small numbers, with half a
        count of room for rounding."""
        groups = np.split(np.array(row.counts, dtype=object), self._starts[1:])
        above = [count - min(group) for group in groups for count in group]
        most = sum(max(group) - min(group) for group in groups)
        limit = min(row.limit - sum(min(group) for group in groups), most)
        step = math.gcd(*above) or 1
        shrink = min(1.0, _SCALE / (max(above) // step or 1))
        return np.array([count // step for count in above], float) * shrink, (limit // step + 0.5) * shrink

    def _prices(self, excess: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the dual prices of the rows at the relaxed optimum, >= 0; zeros (valid, but slow) without one."""
        if not self.rows:
            return np.zeros(0)
        with _silence():
            relaxed = linprog(
                excess, A_ub=self._matrix, b_ub=self._limits, A_eq=self._pick_one, b_eq=np.ones(len(self._starts))
            )
        return np.maximum(-relaxed.ineqlin.marginals, 0) if relaxed.status == 0 else np.zeros(len(self.rows))

    def _useful(
        self, excess: NDArray[np.float64], regret: NDArray[np.float64], floor: float, picks: list[int] | None
    ) -> NDArray[np.bool_]:
        """Returns which items can be in an answer at least as good as `picks`; all when there is none yet."""
        if picks is None:
            return np.ones(len(regret), bool)
        # One unit (1e-6 of the largest loss) of slack, far above the rounding of `floor`.
        return regret <= excess[picks].sum() - floor + 1.0

    def _search(
        self,
        objective: NDArray[np.float64],
        allowed: NDArray[np.bool_],
        nodes: int,
        cap: tuple[NDArray[np.float64], float] | None = None,
    ) -> tuple[list[int] | None, bool]:
        """Returns (the picks with the least `objective` or None, whether that is proven).

        Args:
            allowed: the items that may be picked.
            nodes: limit of the branch-and-bound tree.
            cap: (coefficients, limit) of one more row, kept to HiGHS's tolerance only.
        """
        constraints = [LinearConstraint(self._pick_one, 1, 1)]
        if self.rows:
            constraints.append(LinearConstraint(self._matrix, -np.inf, self._limits))
        if cap:
            constraints.append(LinearConstraint(cap[0][None], -np.inf, cap[1]))
        for _ in range(_CUTS):
            with _silence():
                result = milp(
                    objective,
                    integrality=np.ones(len(objective)),
                    bounds=Bounds(0, allowed.astype(float)),
                    constraints=constraints,
                    options={"mip_rel_gap": 0, "node_limit": nodes},
                )
            if result.x is None:
                return None, result.status == 2
            parts = np.split(result.x, self._starts[1:])
            picks = [int(start + part.argmax()) for start, part in zip(self._starts, parts, strict=True)]
            if self.fits(picks):
                return picks, result.status == 0
            # Over a limit by less than HiGHS can see. Forbid exactly this combination: anything more would forbid
            # answers that fit.
            cut = np.zeros(len(objective))
            cut[picks] = 1
            constraints.append(LinearConstraint(cut[None], -np.inf, len(picks) - 1))
        return None, False


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps C code off standard output, where `--json` promises one object.

    The HiGHS of SciPy 1.17 prints a debugging line there ("transformNewIntegerFeasibleSolution tmpSolver.run()")
    whatever `disp` says. It sits in C's own buffer, hence the fflush on both sides.
    """
    c_flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    c_flush(None)
    stdout = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        yield
    finally:
        c_flush(None)
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(null)
