"""Objectives and the metrics a user names."""

from __future__ import annotations

import pytest
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.objective import parse_metric, predictions_apart

CLEAN = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 2.0]])
CORRUPT = torch.tensor([[0.0, 1.0, 2.0], [3.0, 2.0, 1.0]])


def test_the_classes_are_those_predicted_or_the_one_that_gained_most() -> None:
    top, other = predictions_apart(CLEAN, CORRUPT)
    assert top.tolist() == [0, 0]
    assert other.tolist() == [2, 1]  # the second pair predicts 0 twice; class 1 gained 1, class 2 lost 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("logit-diff", [3.0, 2.0]),
        ("logit-diff:1,2", [1.0, -1.0]),
        ("logit", [3.0, 3.0]),
        ("logit:2", [0.0, 2.0]),
        ("log-prob:2", CLEAN.log_softmax(1)[:, 2].tolist()),
    ],
)
def test_metrics(text: str, expected: list[float]) -> None:
    assert parse_metric(text)(CLEAN, CORRUPT)(CLEAN).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy", "no metric 'accuracy'; choose from logit-diff"),
        ("logit-diff:3", "give 2 class numbers"),
        ("logit:1,2", "give 1 class number, e.g. logit:3"),
        ("logit:-1", "give 1 class number"),
        ("logit:x", "give 1 class number"),
    ],
)
def test_metrics_that_do_not_exist(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_metric(text)


def test_a_class_the_model_lacks() -> None:
    with pytest.raises(InputError, match="class 3 is out of range, the model has 0 to 2"):
        parse_metric("logit-diff:0,3")(CLEAN, CORRUPT)
