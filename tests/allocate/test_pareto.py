from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.allocate.pareto import pareto_front


def test_points_that_trade_one_thing_for_another_all_stay():
    assert pareto_front([(3.0, 1), (2.0, 2), (1.0, 3)]) == [True, True, True]


def test_a_dominated_point_goes_wherever_it_stands():
    good, bad = (1.0, 4, 9), (1.0, 5, 9)
    assert pareto_front([good, bad]) == [True, False]
    assert pareto_front([bad, good]) == [False, True]


def test_of_equal_points_the_first_stays():
    assert pareto_front([(1.0, 2), (1.0, 2), (0.5, 3), (1.0, 2)]) == [True, False, True, False]


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12))
def test_what_stays_is_beaten_by_nothing_and_what_goes_by_something_that_stays(points):
    on_front = pareto_front(points)
    front = [p for p, stays in zip(points, on_front, strict=True) if stays]
    assert len(set(front)) == len(front)
    for point, stays in zip(points, on_front, strict=True):
        no_worse = [q for q in points if all(x <= y for x, y in zip(q, point, strict=True))]
        assert set(no_worse) == {point} if stays else any(q in front for q in no_worse)
