"""Objectives are compared draw by draw, and the one of all logits leaves what is measured as it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from rich.console import Console

from qvit_deploy.report.sweep.table import SweepRow
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.objective import projection
from tools.measure.scores import EveryLogit, differences, mean_text, table_of

ROW = SweepRow(
    model="m", score="gradient", budget="mean_bits=5", loss=0, mean_w_bits=5, mean_a_bits=5, weight_bytes=10**6,
    bitops=1, latency_ms=None, sqnr_db=20, agreement=0.9, top1=0.8, test_agreement=0.9,
)  # fmt: skip


def test_a_mean_of_several_has_its_standard_error() -> None:
    assert mean_text([2.0], ".2f") == "2.00"
    assert mean_text([1.0, 3.0], ".2f") == "2.00 ± 1.00"
    assert mean_text([1.0, 3.0], "+.2f") == "+2.00 ± 1.00"


def test_objectives_are_compared_draw_by_draw() -> None:
    def draws(*sqnr: float) -> list[SweepRow]:
        return [dataclasses.replace(ROW, sqnr_db=each) for each in sqnr]

    rows = {("m", "5", "gradient", "a"): draws(20, 30), ("m", "5", "gradient", "b"): draws(21, 31)}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(differences(rows, "a", "b"), table_of(rows))
    assert "+1.00 ± 0.00" in capture.get() and "25.00 ± 5.00" in capture.get()


def test_the_objective_of_all_logits_measures_what_a_classifier_does() -> None:
    outputs = {"logits": torch.randn(4, 3)}
    task = EveryLogit()
    assert torch.equal(task.objective_for([outputs], 3)(outputs), projection([outputs], 3)(outputs))
    exact, other = ({"logits": np.random.default_rng(seed).standard_normal((9, 3))} for seed in (0, 1))
    assert task.agreement(exact, other) == CLASSIFY.agreement(exact, other)
    assert task.sqnr_db(exact, other) == CLASSIFY.sqnr_db(exact, other)
