from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.report.numbers import amount, digits, interval, percent, times


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1428.1, "1,428"), (85.85, "85.8"), (13.5, "13.5"), (0.5480, "0.548"), (0.0042, "0.00420"),
     (9.5e-6, "9.5e-06"), (-2.5, "-2.50")],
)  # fmt: skip
def test_three_digits(value: float, text: str) -> None:
    assert digits(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "like", "text"),
    [
        (0, "B", None, "0 B"),
        (512, "B", None, "512 B"),
        (12_345, "B", None, "12.3 kB"),
        (999_999, "B", None, "1.00 MB"),
        (13_500_672, "B", None, "13.5 MB"),
        (1_428_114_112_512, "", None, "1.43 T"),
        (1_428_114_112_512, "", 37e9, "1,428 G"),
        (7, "", None, "7"),
    ],
)
def test_amounts(value: float, unit: str, like: float | None, text: str) -> None:
    assert amount(value, unit, like).replace("\u202f", " ") == text


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100 %"), (0.99999, "99.9 %"), (0.875, "87.5 %"), (0.22, "22.0 %"), (0.0, "0 %")]
)
def test_only_all_is_100_percent(share: float, text: str) -> None:
    assert percent(share).replace("\u202f", " ") == text


def test_times() -> None:
    assert times(85.9, 13.5) == "6.4×"
    assert times(1024, 4) == "256×"
    assert times(1, 0) is None


def test_wilson_interval_of_a_textbook_case() -> None:
    # 28 of 32: (0.7193, 0.9503) by statsmodels' proportion_confint(28, 32, method="wilson").
    assert interval(28 / 32, 32) == pytest.approx((0.7193, 0.9503), abs=5e-4)


@given(st.integers(1, 10_000), st.data())
def test_interval_holds_the_share_and_stays_a_share(n: int, data: st.DataObject) -> None:
    share = data.draw(st.integers(0, n)) / n
    low, high = interval(share, n)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1 and low < high
