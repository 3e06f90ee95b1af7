"""What a file may lose against the float model beside the reference file."""

from __future__ import annotations

import pytest

from qvit_deploy.targets.free_running import least_sqnr_db


@pytest.mark.parametrize(("reference", "least"), [(30.0, 27.0), (2.0, -1.0), (60.0, 57.0), (130.0, 57.0)])
def test_three_decibels_may_be_lost_and_more_where_float32_is_the_limit(reference: float, least: float) -> None:
    assert least_sqnr_db(reference) == least
