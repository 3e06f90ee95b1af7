from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from qvit_deploy.bench.compare.sketch import Sketch
from qvit_deploy.bench.compare.stats import _student, paired_ratio, ratio, summary
from tests.support.artifacts.measurements import noisy


def sketches(levels: list[float], seed: int = 0) -> list[Sketch]:
    random = np.random.default_rng(seed)
    of_levels = []
    for level in levels:
        sketch = Sketch()
        for value in (level * random.lognormal(0, 0.05, 300)).astype(int):
            sketch.add(int(value))
        of_levels.append(sketch)
    return of_levels


@pytest.mark.parametrize("freedom", [3, 5, 9, 30])
def test_student_s_quantiles(freedom: int) -> None:
    assert _student(0.975, freedom) == pytest.approx(t.ppf(0.975, freedom), rel=0.01)


def test_summary_has_the_pooled_values_inside_their_intervals() -> None:
    values, intervals = summary(sketches([1e6, 1.02e6, 0.98e6, 1.01e6]), [0.5, 0.9])
    assert values[1] == pytest.approx(1e6, rel=0.02) and values[1] < values[2]
    assert all(low < value < high for value, (low, high) in zip(values, intervals, strict=True))


def test_intervals_rest_on_processes_not_on_iterations() -> None:
    """Ten times the samples of the same processes leave the interval as wide."""
    levels = [1e6, 1.1e6, 0.9e6, 1.05e6, 0.95e6]
    widths = []
    for repeats in (1, 10):
        units = sketches(levels)
        for i, unit in enumerate(units):
            for more in range(1, repeats):
                unit.merge(sketches(levels, more)[i])
        _, ((low, high), *_) = summary(units, [0.5])
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_one_process_has_no_interval() -> None:
    values, intervals = summary(sketches([1e6]), [0.5])
    assert intervals == [(v, v) for v in values]


def test_a_slowdown_is_found_and_no_change_is_not() -> None:
    same = ratio([noisy(5, 1)], [noisy(5, 2)])
    assert same.interval[0] < 1 < same.interval[1] and same.units == 10 and not same.interleaved
    slower = ratio([noisy(5, 1)], [noisy(5.4, 2)])
    assert slower.value == pytest.approx(1.08, abs=0.01) and slower.interval[0] > 1.05


def test_pairing_removes_what_both_sides_share() -> None:
    """The machine becomes a third slower in the middle of the run."""
    drift = np.linspace(1, 1.33, 200).reshape(10, 20)
    old, new = np.array(noisy(5, 1, spread=0.002)) * drift, np.array(noisy(5.25, 2, spread=0.002)) * drift
    paired = paired_ratio([(old.tolist(), new.tolist())])
    apart = ratio([old.tolist()], [new.tolist()])
    assert paired.interleaved and paired.value == pytest.approx(1.05, abs=0.004)
    low, high = paired.interval
    assert 1.04 < low < high < 1.06
    assert apart.interval[1] - apart.interval[0] > 5 * (high - low)


def test_several_files_are_the_units() -> None:
    """Sessions that differ by 10 % leave no doubt that 3 % cannot be told."""
    levels = (5, 5.5, 5.2)
    slowdown = ratio(
        [noisy(v, i) for i, v in enumerate(levels)], [noisy(1.03 * v, 9 + i) for i, v in enumerate(levels)]
    )
    assert slowdown.units == 3 and slowdown.interval[0] < 0.97 and slowdown.interval[1] > 1.08


def test_processes_may_have_different_blocks() -> None:
    ragged = [noisy(5, 1, processes=1, blocks=n)[0] for n in (3, 20, 7)]
    slowdown = ratio([ragged], [noisy(5, 2, processes=4)])
    assert slowdown.value == pytest.approx(1, abs=0.03) and slowdown.units == 3


def test_one_process_rests_on_its_blocks() -> None:
    slowdown = ratio([noisy(5, 1, processes=1)], [noisy(6, 2, processes=1)])
    assert slowdown.units == 20 and slowdown.interval[0] > 1.15


def test_the_same_question_has_the_same_answer() -> None:
    assert ratio([noisy(5, 1)], [noisy(5, 2)]) == ratio([noisy(5, 1)], [noisy(5, 2)])


@pytest.mark.parametrize(("slowdown", "least", "most"), [(0.0, 0.0, 0.05), (0.05, 0.9, 1.0)])
def test_error_rates_on_noise_of_processes_and_drift(slowdown: float, least: float, most: float) -> None:
    """Small version of tools/measure/check.py."""
    random = np.random.default_rng(3)
    failed = 0
    for trial in range(40):
        drift = np.exp(np.cumsum(random.normal(0, 0.004, 200))).reshape(10, 20)
        old, new = np.array(noisy(5, 2 * trial)) * drift, np.array(noisy(5 * (1 + slowdown), 2 * trial + 1)) * drift
        paired = paired_ratio([(old.tolist(), new.tolist())])
        failed += paired.interval[0] > 1 and paired.value > 1.03
    assert least <= failed / 40 <= most
