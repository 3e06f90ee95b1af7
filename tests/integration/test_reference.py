"""The DINOv2 reference, where it is present beside the repository: the floors that published tools set."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference_model import Reference

from qvit_deploy.evaluate import evaluate
from qvit_deploy.recipe import Recipe

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("goal", "floor"), [("w8a8", 0.84), ("w6a6", 0.83), ("w4a4", 0.75)])
def test_top1_on_a_thousand_test_images(reference: Reference, goal: str, floor: float, tmp_path: Path) -> None:
    reference.compile(tmp_path / "b", Recipe(uniform=goal, attention="integer"))
    result = evaluate(tmp_path / "b", reference.data)
    assert result.n == 1000
    assert result.float_top1 == pytest.approx(0.844, abs=0.003)
    assert result.top1 is not None and result.top1 >= floor
