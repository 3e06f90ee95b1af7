from __future__ import annotations

import pytest

from qvit_deploy.cli.console import short


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (960, "960"), (27_648, "27.6 k"), (999_900, "1.00 M"), (34_100_000_000, "34.1 G")]
)
def test_counts_are_three_digits_and_a_prefix(count: int, text: str) -> None:
    assert short(count) == text
