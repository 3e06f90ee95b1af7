"""All outputs of a trained model are kept, and no output of a pyramid is lost."""

from __future__ import annotations

import pytest

from qvit_deploy.tasks.registry import TASKS
from tools.measure.outputs import SumOfOutputs, pyramid, two_heads

pytestmark = pytest.mark.slow


def test_both_outputs_of_a_trained_model_are_within_a_decibel_of_what_each_gets_alone() -> None:
    figures = two_heads(6, 0, 50, ["all outputs"])
    both, alone = figures["all outputs"], figures["each compiled alone"]
    assert all(together > one - 1 for together, one in zip(both, alone, strict=True))


def test_no_output_of_a_trained_pyramid_falls_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of outputs is blind to noise that cancels in it."""
    monkeypatch.setitem(TASKS, SumOfOutputs.name, SumOfOutputs())
    figures = pyramid(6, 0, 50, ["all outputs", "sum of outputs"])
    assert min(figures["all outputs"]) > max(25.5, min(figures["sum of outputs"]) + 1)
