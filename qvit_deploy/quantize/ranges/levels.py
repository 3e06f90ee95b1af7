"""The best levels of a `LevelGrid`: weighted scalar quantization with integer levels, solved exactly."""

from __future__ import annotations

import torch
from torch import Tensor


def best_levels(values: Tensor, weights: Tensor, count: int, top: int) -> tuple[int, ...]:
    """Returns `count` integers in 0..top, 0 among them and ascending, with the least sum of weight * (value - level)^2.

    Each value goes to the level nearest to its rounded self. Dynamic programming over the levels in ascending order
    (the exact one-dimensional k-means of Wang and Song 2011, with levels restricted to integers): O(count * top^2).

    Args:
        values: float32 [n] >= 0, in units of one integer; those above `top` count as `top`.
        weights: float32 [n] >= 0.
        count: number of levels, at most top + 1.
    """
    x = values.clamp_max(top).double()
    cell = x.round().long()
    # Prefix sums of weight, weight * value and weight * value^2 by cell turn the cost of any interval into arithmetic.
    sums = []
    for power in (0, 1, 2):
        per_cell = torch.zeros(top + 1, dtype=torch.float64).index_add_(0, cell, weights.double() * x**power)
        sums.append(torch.cat([torch.zeros(1, dtype=torch.float64), per_cell.cumsum(0)]))

    def cost(start: Tensor, stop: Tensor, level: Tensor) -> Tensor:
        """Of sending the cells start..stop-1 to `level`."""
        w, wx, wxx = (s[stop] - s[start] for s in sums)
        return wxx - 2 * level * wx + level**2 * w

    cells = torch.arange(top + 1)
    low, high = cells[:, None], cells[None, :]
    middle = (low + high) // 2 + 1
    between = cost(low, middle, low) + cost(middle, high.clamp(min=middle), high)
    between[low >= high] = float("inf")
    total = torch.full((top + 1,), float("inf"), dtype=torch.float64)
    total[0] = 0
    before = []
    for _ in range(count - 1):
        total, reached = (total[:, None] + between).min(0)
        before.append(reached)
    total = total + cost(cells, torch.full_like(cells, top + 1), cells)
    levels = [int(total.argmin())]
    for reached in reversed(before):
        levels.append(int(reached[levels[-1]]))
    return tuple(reversed(levels))
