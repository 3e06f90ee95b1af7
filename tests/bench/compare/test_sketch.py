from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.bench.compare.sketch import GROWTH, Sketch

times = st.lists(st.integers(1, 10**13), min_size=1, max_size=200)


def sketch_of(values: list[int]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(times, st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_lies_by_a_sample(values: list[int], q: float) -> None:
    """Between the samples around its rank, but for the width of a bin."""
    estimate, ordered = sketch_of(values).quantile(q), sorted(values)
    rank = q * len(ordered)
    low, high = ordered[max(0, int(np.ceil(rank)) - 1)], ordered[min(len(ordered) - 1, int(rank))]
    assert min(low, high) / GROWTH**1.01 <= estimate <= max(low, high) * GROWTH**1.01


@given(times, times)
def test_merging_counts_both(one: list[int], other: list[int]) -> None:
    merged = sketch_of(one)
    merged.merge(sketch_of(other))
    together = sketch_of(one + other)
    assert merged.as_dict() == together.as_dict() and merged.count == len(one) + len(other)
    assert merged.mean == sum(one + other) / len(one + other)
    assert Sketch.from_dict(merged.as_dict()).quantile(0.9) == together.quantile(0.9)


def test_quantiles_of_many_samples_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).lognormal(13, 0.5, 50_000).astype(np.int64) + 1
    sketch = sketch_of(values.tolist())
    for q in (0.5, 0.9, 0.99):
        assert sketch.quantile(q) == pytest.approx(np.quantile(values, q), rel=1e-3)


def test_memory_stays_flat_over_a_million_samples() -> None:
    sketch = Sketch()
    chunk = np.random.default_rng(0).lognormal(13, 1, 5000).astype(np.int64).tolist()

    def add(times: int) -> int:
        tracemalloc.start()
        for _ in range(times):
            for value in chunk:
                sketch.add(value)
        sketch.quantile(0.5)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    few, many = add(2), add(198)
    assert sketch.count == 1_000_000
    assert many < few + 200_000


@pytest.mark.parametrize("value", [0, -5])
def test_times_are_positive(value: int) -> None:
    with pytest.raises(ValueError, match="ns"):
        Sketch().add(value)


def test_a_cleared_sketch_is_new() -> None:
    sketch = sketch_of([5, 6])
    sketch.clear()
    assert sketch.count == 0
    sketch.add(10**6)
    assert sketch.quantile(0.5) == pytest.approx(10**6, rel=1e-3)
