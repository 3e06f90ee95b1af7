"""MIB's curves: known areas, their bounds, and the orders that belong to them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qvit_deploy.errors import NonFiniteError
from qvit_deploy.patching.faithfulness import (
    SIZES,
    Evaluate,
    absolute_order,
    cmd,
    cpr,
    faithfulness_curve,
    signed_order,
)

SPAN = SIZES[-1] - SIZES[0]

effects = arrays(np.float64, st.integers(1, 60), elements=st.integers(-50, 50).map(float)).filter(
    lambda w: abs(w.sum()) >= 1
)


def additive(weights: np.ndarray, corrupt: float = -3.0) -> Evaluate:
    """Every component adds its own effect."""
    return lambda components: corrupt + float(weights[list(components)].sum())


def test_known_areas() -> None:
    weights = np.array([4.0, 3.0, 2.0, 1.0])
    curve = faithfulness_curve(signed_order(weights), additive(weights), (0.25, 0.5, 1.0))
    assert curve.counts == (1, 2, 4)
    assert (curve.clean, curve.corrupt, curve.metric) == (7, -3, (1, 4, 7))
    assert curve.faithfulness == pytest.approx((0.4, 0.7, 1.0))
    assert curve.area == pytest.approx(0.25 * 0.55 + 0.5 * 0.85)
    assert curve.distance == pytest.approx(0.25 * 0.45 + 0.5 * 0.15)


def test_a_circuit_of_one_component_is_perfect_from_its_size_on() -> None:
    weights = np.zeros(1000)
    weights[417] = 5
    curve = cpr(weights, additive(weights))
    assert curve.counts[0] == 1
    assert curve.area == pytest.approx(SPAN) == pytest.approx(0.999)
    assert cmd(weights, additive(weights)).distance == 0


def test_sizes_that_keep_nothing_have_no_faithfulness() -> None:
    weights = np.ones(10)
    curve = cpr(weights, additive(weights))
    assert curve.counts == (0, 0, 0, 0, 0, 0, 1, 2, 5, 10)
    assert curve.faithfulness == pytest.approx((0, 0, 0, 0, 0, 0, 0.1, 0.2, 0.5, 1))


def test_a_share_of_a_whole_number_is_not_rounded_below_it() -> None:
    weights = np.ones(100)
    assert faithfulness_curve(range(100), additive(weights), (0.29, 0.57, 1.0)).counts == (29, 57, 100)


@given(effects.map(np.abs))
def test_areas_are_bounded_where_effects_do_not_cancel(weights: np.ndarray) -> None:
    curve = cpr(weights, additive(weights))
    assert curve.area is not None and curve.distance is not None
    assert -1e-9 <= curve.area <= SPAN + 1e-9
    assert curve.area + curve.distance == pytest.approx(SPAN)  # f stays within [0, 1]


@given(effects.filter(lambda w: w.sum() > 0), st.randoms())
def test_no_order_beats_the_signed_one_by_true_effects(weights: np.ndarray, random) -> None:
    other = list(range(len(weights)))
    random.shuffle(other)
    best, area = cpr(weights, additive(weights)).area, faithfulness_curve(other, additive(weights)).area
    assert best is not None and area is not None
    assert best >= area - 1e-9


@given(effects, st.floats(-10, 10), st.floats(0.1, 10) | st.floats(-10, -0.1))
def test_areas_ignore_scale_and_offset_of_the_metric(weights: np.ndarray, offset: float, scale: float) -> None:
    evaluate = additive(weights)
    here = cmd(weights, evaluate)
    there = cmd(weights, lambda components: scale * evaluate(components) + offset)
    assert there.area == pytest.approx(here.area, abs=1e-6)
    assert there.distance == pytest.approx(here.distance, abs=1e-6)


@given(effects)
def test_orders(weights: np.ndarray) -> None:
    signed, absolute = signed_order(weights), absolute_order(weights)
    assert sorted(signed) == sorted(absolute) == list(range(len(weights)))
    assert all(weights[a] >= weights[b] for a, b in itertools.pairwise(signed))
    assert all(abs(weights[a]) >= abs(weights[b]) for a, b in itertools.pairwise(absolute))


def test_maps_are_ordered_in_memory_order() -> None:
    assert signed_order([[1, 3], [2, -4]]) == (1, 2, 0, 3)
    assert absolute_order([[1, 3], [2, -4]]) == (3, 1, 2, 0)


def test_each_number_of_components_is_evaluated_once() -> None:
    seen: list[int] = []

    def evaluate(components: tuple[int, ...]) -> float:
        seen.append(len(components))
        return float(len(components))

    faithfulness_curve(range(20), evaluate)
    assert seen == [0, 1, 2, 4, 10, 20]


def test_no_difference_between_clean_and_corrupt_is_said() -> None:
    curve = cpr(np.arange(5.0), lambda components: 2.0)
    assert (curve.faithfulness, curve.area, curve.distance) == (None, None, None)
    assert curve.undefined == "the metric is 2 clean and 2 corrupted: no difference"


def test_bad_arguments() -> None:
    def count(components: tuple[int, ...]) -> float:
        return float(len(components))

    for sizes in ((), (1.0,), (0.5, 0.5), (0.0, 1.0), (0.5, 1.1)):
        with pytest.raises(ValueError, match="sizes"):
            faithfulness_curve(range(5), count, sizes)
    for order in ((), (1, 1)):
        with pytest.raises(ValueError, match="each of them once"):
            faithfulness_curve(order, count)
    with pytest.raises(NonFiniteError, match="with 0 of 5 components kept"):
        faithfulness_curve(range(5), lambda components: math.nan)
    with pytest.raises(NonFiniteError, match="scores"):
        signed_order([1.0, math.nan])
