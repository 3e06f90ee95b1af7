"""Agreement of an attribution with exact effects: known values, invariances, nothing undefined as a number."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from qvit_deploy.errors import NonFiniteError
from qvit_deploy.patching.agreement import METRICS, Agreement, compare, random_map, summarise

values = st.integers(-1000, 1000).map(lambda i: i / 8)
maps = arrays(np.float64, st.integers(3, 40), elements=values)


@pytest.fixture(autouse=True)
def _no_warning_is_hidden() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@st.composite
def two_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    a = draw(maps)
    g = draw(arrays(np.float64, len(a), elements=values))
    assume(np.ptp(a) > 0 and np.ptp(g) > 0)
    return a, g


def test_known_values() -> None:
    a = np.array([[2.0, -1.0], [0.0, 3.0]])
    g = np.array([[1.0, -2.0], [0.5, 4.0]])
    agreement = compare(a, g, sign_share=0.1, top_share=0.5)
    assert agreement.pearson == pytest.approx(stats.pearsonr(a.ravel(), g.ravel()).statistic)
    assert agreement.spearman == pytest.approx(1)
    assert agreement.slope == pytest.approx((2 + 2 + 0 + 12) / (1 + 4 + 0.25 + 16))
    assert agreement.normalized_error == pytest.approx(math.sqrt((1 + 1 + 0.25 + 1) / 21.25))
    assert (agreement.tau, agreement.signs, agreement.sign_agreement) == (pytest.approx(0.4), 4, 0.75)
    assert (agreement.top, agreement.top_chance, agreement.top_precision) == (2, 0.5, 0.5)
    assert (agreement.entries, agreement.excluded, agreement.undefined) == (4, 0, {})


@given(two_maps())
def test_correlations_are_those_of_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    agreement = compare(*pair)
    assert agreement.pearson == pytest.approx(stats.pearsonr(*pair).statistic, abs=1e-9)
    assert agreement.spearman == pytest.approx(stats.spearmanr(*pair).statistic, abs=1e-9)


@given(maps)
def test_a_map_agrees_with_itself(g: np.ndarray) -> None:
    assume(np.ptp(g) > 0)
    agreement = compare(g, g)
    assert agreement.pearson == pytest.approx(1)
    assert agreement.spearman == pytest.approx(1)
    assert agreement.slope == pytest.approx(1)
    assert (agreement.normalized_error, agreement.sign_agreement) == (0, 1)
    distinct = len(set(np.abs(g).tolist())) == len(g)
    assert agreement.top_precision == pytest.approx(1) if distinct else agreement.top_precision is not None


@given(two_maps())
def test_the_opposite_sign(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, g = pair
    here, there = compare(a, g), compare(-a, g)
    for name in ("pearson", "spearman", "slope"):
        assert getattr(there, name) == pytest.approx(-getattr(here, name), abs=1e-9)
    assert there.top_precision == pytest.approx(here.top_precision)
    assert here.sign_agreement is not None and there.sign_agreement is not None
    silent = (a == 0)[np.abs(g) > here.tau].mean()
    assert here.sign_agreement + there.sign_agreement == pytest.approx(1 - silent)
    assert compare(-g, g).normalized_error == pytest.approx(2)


@given(two_maps(), st.floats(0.01, 100), st.floats(-100, 100))
def test_pearson_ignores_scale_and_offset(pair: tuple[np.ndarray, np.ndarray], scale: float, offset: float) -> None:
    a, g = pair
    assert compare(scale * a + offset, g).pearson == pytest.approx(compare(a, g).pearson, abs=1e-6)


@given(two_maps(), st.sampled_from([np.cbrt, np.arctan, lambda x: x**3, lambda x: np.exp(x / 50)]))
def test_spearman_ignores_monotone_maps(pair: tuple[np.ndarray, np.ndarray], monotone: np.ufunc) -> None:
    a, g = pair
    bent = monotone(a)
    assume(len(set(bent.tolist())) == len(set(a.tolist())))  # neighbours must not be rounded together
    assert compare(bent, g).spearman == pytest.approx(compare(a, g).spearman, abs=1e-9)


@given(two_maps(), st.floats(0.01, 100))
def test_slope_is_the_scale_and_the_error_of_zeros_is_one(pair: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    _, g = pair
    assert compare(scale * g, g).slope == pytest.approx(scale)
    assert compare(scale * g, g).normalized_error == pytest.approx(abs(scale - 1))
    assert compare(np.zeros_like(g), g).normalized_error == pytest.approx(1)


@given(two_maps(), st.permutations(range(40)))
def test_the_order_of_entries_does_not_matter(pair: tuple[np.ndarray, np.ndarray], order: list[int]) -> None:
    a, g = pair
    shuffled = [i for i in order if i < len(a)]
    here, there = compare(a, g), compare(a[shuffled], g[shuffled])
    for name in METRICS:
        assert getattr(there, name) == pytest.approx(getattr(here, name), abs=1e-9)


@given(two_maps(), st.integers(1, 20))
def test_structural_zeros_are_left_out_and_counted(pair: tuple[np.ndarray, np.ndarray], zeros: int) -> None:
    a, g = pair
    padded = [np.concatenate([x, np.zeros(zeros)]) for x in pair]
    agreement = compare(*padded, np.arange(len(a) + zeros) < len(a))
    assert (agreement.entries, agreement.excluded, agreement.excluded_largest) == (len(a), zeros, 0)
    assert agreement.pearson == compare(a, g).pearson
    assert agreement.top_precision == compare(a, g).top_precision


def test_structural_zeros_would_inflate_pearson() -> None:
    rng = np.random.default_rng(0)
    a, g = rng.random(20), rng.random(20)  # both positive and unrelated
    padded = [np.concatenate([x, np.zeros(80)]) for x in (a, g)]
    honest, inflated = compare(*padded, np.arange(100) < 20).pearson, compare(*padded).pearson
    assert honest is not None and inflated is not None
    assert abs(honest) < 0.4 < inflated - 0.3


def test_an_effect_where_none_should_be_is_seen() -> None:
    assert compare([1, 2, 3, 0.0], [1, 2, 3, -0.5], [True, True, True, False]).excluded_largest == 0.5


@settings(max_examples=25)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(0, 2**32))
def test_a_map_without_preference_has_the_top_by_chance(shape: tuple[int, int], seed: int) -> None:
    entries, top = max(3, shape[0]), shape[1]
    g = random_map((entries,), seed)
    agreement = compare(np.zeros(entries), g, top_share=top / entries)
    assert agreement.top == top
    assert agreement.top_precision == pytest.approx(agreement.top_chance) == pytest.approx(top / entries)


def test_a_random_map_finds_the_top_by_chance() -> None:
    g = np.random.default_rng(1).standard_normal((6, 50))
    summary = summarise([compare(random_map(g.shape, seed), g) for seed in range(300)])
    metric = summary.metrics["top_precision"]
    assert metric.low is not None and metric.high is not None
    assert metric.low < 0.1 < metric.high and summary.top_chance == pytest.approx(0.1)
    pearson = summary.metrics["pearson"]
    assert pearson.low is not None and pearson.high is not None
    assert pearson.low < 0 < pearson.high < 0.02


@pytest.mark.parametrize(
    ("a", "g", "undefined"),
    [
        ([1, 2], [3, 4], dict.fromkeys(METRICS, "fewer than 3 entries (2)")),
        ([], [], dict.fromkeys(METRICS, "fewer than 3 entries (0)")),
        ([2, 2, 2], [1, 2, 3], dict.fromkeys(METRICS[:2], "the attribution map is constant")),
        ([1, 2, 3], [2, 2, 2], dict.fromkeys(METRICS[:2], "the exact effects are constant")),
        ([0, 0, 0], [1, 2, 3], dict.fromkeys(METRICS[:2], "the attribution map is constant")),
        (
            [1, 2, 3],
            [0, 0, 0],
            dict.fromkeys(METRICS[:2], "the exact effects are constant")
            | dict.fromkeys(METRICS[2:], "the exact effects are all zero"),
        ),
    ],
)
def test_what_is_undefined_says_why(a: list[float], g: list[float], undefined: dict[str, str]) -> None:
    agreement = compare(np.array(a, dtype=float), np.array(g, dtype=float))
    assert agreement.undefined == undefined
    assert {name for name in METRICS if getattr(agreement, name) is None} == set(undefined)
    assert "NaN" not in json.dumps(asdict(agreement))


def test_rounding_noise_is_no_correlation() -> None:
    nearly = (np.float32(1) + np.float32(1e-7) * np.arange(5)).astype(np.float32)
    assert len(set(nearly.tolist())) > 1
    assert compare(nearly, np.arange(5.0)).pearson is None
    assert compare(nearly.astype(np.float64), np.arange(5.0)).pearson is not None


@given(two_maps(), st.integers(-300, 300), st.integers(-300, 300))
def test_no_magnitude_breaks_it(pair: tuple[np.ndarray, np.ndarray], first: int, second: int) -> None:
    agreement = compare(pair[0] * 10.0**first, pair[1] * 10.0**second)
    assert agreement.pearson == pytest.approx(compare(*pair).pearson, abs=1e-6)
    for name in METRICS:
        value = getattr(agreement, name)
        assert math.isfinite(value) if value is not None else "float64" in agreement.undefined[name]


def test_not_a_number_is_an_error() -> None:
    good = np.arange(4.0)
    for bad in (math.nan, math.inf):
        with pytest.raises(NonFiniteError, match="1 entries of the attribution map"):
            compare([bad, 1, 2, 3], good)
        with pytest.raises(NonFiniteError, match="exact effect map"):
            compare(good, [bad, 1, 2, 3])
        assert compare([bad, 1, 2, 3], good, [False, True, True, True]).excluded == 1


def test_what_does_not_match_is_refused() -> None:
    g = np.arange(6.0)
    with pytest.raises(ValueError, match="do not match"):
        compare(g, g.reshape(2, 3))
    with pytest.raises(ValueError, match="do not match"):
        compare(g, g, np.ones(6))  # not boolean
    for shares in ({"sign_share": 1.0}, {"top_share": 0.0}, {"sign_share": -0.1}, {"top_share": 1.1}):
        with pytest.raises(ValueError, match="share"):
            compare(g, g, **shares)


def with_pearson(r: float | None) -> Agreement:
    """Maps of three entries with this correlation; None gives a constant map."""
    u, v = np.array([1.0, 0.0, -1.0]) / math.sqrt(2), np.array([1.0, -2.0, 1.0]) / math.sqrt(6)
    return compare(np.ones(3) if r is None else r * u + math.sqrt(1 - r * r) * v, u)


def test_the_mean_and_its_interval() -> None:
    summary = summarise([with_pearson(r) for r in (0.2, 0.4, 0.6, 0.8)])
    metric = summary.metrics["pearson"]
    half = 3.182446 * math.sqrt(0.2 / 3) / 2  # t with 3 degrees of freedom, from the table
    assert metric.mean == pytest.approx(0.5)
    assert (metric.low, metric.high) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert (summary.pairs, summary.entries, summary.excluded) == (4, 12, 0)
    assert tuple(summary.metrics) == METRICS


def test_pairs_without_a_metric_are_counted_and_said() -> None:
    metrics = summarise([with_pearson(r) for r in (0.5, None, 0.7, None)]).metrics
    assert metrics["pearson"].mean == pytest.approx(0.6)
    assert (metrics["pearson"].pairs, metrics["pearson"].undefined) == (2, {"the attribution map is constant": 2})
    assert (metrics["slope"].pairs, metrics["slope"].undefined) == (4, {})
    one = summarise([with_pearson(0.5), with_pearson(None)]).metrics["pearson"]
    assert (one.mean, one.low, one.high, one.pairs) == (pytest.approx(0.5), None, None, 1)
    none = summarise([with_pearson(None)]).metrics["pearson"]
    assert (none.mean, none.low, none.pairs) == (None, None, 0)
    with pytest.raises(ValueError):
        summarise([])


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    truth = np.array([1.0, 2.0, 3.0])
    covered = 0
    for _ in range(400):  # five pairs whose slopes scatter around 0.7
        slope = summarise([compare(s * truth, truth) for s in rng.normal(0.7, 0.2, 5)]).metrics["slope"]
        assert slope.low is not None and slope.high is not None
        covered += slope.low < 0.7 < slope.high
    assert 0.92 < covered / 400 < 0.98


def test_the_random_baseline() -> None:
    assert (random_map((2, 3), 0) == random_map((2, 3), 0)).all()
    assert (random_map((2, 3), 0) != random_map((2, 3), 1)).all()
