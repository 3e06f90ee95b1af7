from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.tasks.metrics import relative_error, sqnr_db


def test_a_tenth_of_the_amplitude_is_twenty_decibels() -> None:
    y = np.array([[3.0, -4.0]], np.float32)
    assert sqnr_db(y, y * 1.1) == pytest.approx(20, abs=1e-4)
    assert sqnr_db(y, y * 2) == pytest.approx(0, abs=1e-6)
    assert sqnr_db(y, -y) == pytest.approx(-6.0206, abs=1e-3)


@given(st.floats(1e-3, 1e3), st.floats(1e-4, 10))
def test_sqnr_does_not_depend_on_the_unit(unit: float, noise: float) -> None:
    y, other = np.array([1.0, 2.0, -3.0]), np.array([1.0, 2.0 + noise, -3.0])
    assert sqnr_db(y * unit, other * unit) == pytest.approx(sqnr_db(y, other), abs=1e-6)


def test_equal_and_silent_outputs_have_finite_numbers() -> None:
    y = np.ones((2, 3), np.float32)
    assert sqnr_db(y, y) == 200 and sqnr_db(0 * y, 0 * y) == 200
    assert np.isfinite(sqnr_db(y * 1e20, y * -1e20))


def test_the_largest_difference_relative_to_the_largest_value() -> None:
    y = np.array([[1.0, -4.0], [0.0, 2.0]])
    assert relative_error(y, y + np.array([[0.0, 0.5], [-1.0, 0.0]])) == 0.25
    assert relative_error(y, y) == 0 == relative_error(0 * y, 0 * y)
