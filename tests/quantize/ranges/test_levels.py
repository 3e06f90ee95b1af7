from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.quantize.ranges.levels import best_levels


def cost(levels: tuple[int, ...], values: np.ndarray, weights: np.ndarray, top: int) -> float:
    clamped = np.minimum(values, top)
    chosen = np.abs(np.rint(clamped)[:, None] - np.array(levels)).argmin(1)
    return float((weights * (clamped - np.array(levels)[chosen]) ** 2).sum())


@given(
    pairs=st.lists(st.tuples(st.floats(0, 12, width=32), st.floats(0, 5, width=32)), min_size=1, max_size=30),
    count=st.integers(2, 5),
)
@settings(max_examples=80, deadline=None)
def test_no_other_levels_are_better(pairs: list[tuple[float, float]], count: int) -> None:
    top = 9
    values, weights = (np.array(column, dtype=np.float32) for column in zip(*pairs, strict=True))
    levels = best_levels(torch.from_numpy(values), torch.from_numpy(weights), count, top)
    assert len(levels) == count and levels[0] == 0 and list(levels) == sorted(set(levels)) and levels[-1] <= top
    best = min(cost((0, *rest), values, weights, top) for rest in combinations(range(1, top + 1), count - 1))
    assert cost(levels, values, weights, top) <= best * (1 + 1e-9) + 1e-9


def test_as_many_levels_as_integers_are_all_of_them() -> None:
    assert best_levels(torch.rand(50) * 7, torch.ones(50), 8, 7) == tuple(range(8))


def test_levels_are_dense_where_the_weight_is() -> None:
    values = torch.rand(20000, generator=torch.Generator().manual_seed(0)) ** 4 * 127
    steps = np.diff(best_levels(values, torch.ones(20000), 16, 127))
    assert steps[:5].max() <= 9 and steps[:5].mean() < 0.7 * steps[-5:].mean()
