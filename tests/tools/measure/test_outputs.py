"""All outputs of a trained model are kept, and no output of a pyramid is lost."""

from __future__ import annotations

import pytest

from qvit_deploy.tasks.registry import TASKS
from tools.measure.outputs import FirstOutput, swin_pyramid, two_heads

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, FirstOutput.name, FirstOutput())


def test_both_outputs_of_a_trained_model_are_within_a_decibel_of_what_each_gets_alone() -> None:
    together, alone, _ = two_heads(mean_bits=6, seed=0, epochs=50)
    assert all(both > one - 1 for both, one in zip(together, alone, strict=True))


def test_no_output_of_a_pyramid_falls_behind() -> None:
    every, first = swin_pyramid(mean_bits=6, seed=0)
    assert len(every) == 4 and min(every) > max(min(first) - 0.5, 25)
