"""What the logits of a classifier mean, and the metrics a user names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.classify import CLASSIFY, largest_logit, predictions_apart
from qvit_deploy.tasks.registry import task_called

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
    assert CLASSIFY.parse_metric(text)({"logits": CLEAN}, {"logits": CORRUPT})(
        {"logits": CLEAN}
    ).tolist() == pytest.approx(expected)


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
        CLASSIFY.parse_metric(text)


def test_a_class_the_model_lacks() -> None:
    with pytest.raises(InputError, match="class 3 is out of range, the model has 0 to 2"):
        CLASSIFY.parse_metric("logit-diff:0,3")({"logits": CLEAN}, {"logits": CORRUPT})


def test_the_first_output_of_two_dimensions_is_the_logits() -> None:
    outputs = {
        "map": np.zeros((2, 7, 7)), "indices": np.zeros((2, 5), np.int64), "logits": np.array([[1.0, 3.0], [2.0, 0.0]]),
        "embedding": np.zeros((2, 7)),
    }  # fmt: skip
    assert CLASSIFY.answers(outputs).tolist() == [1, 0]
    assert CLASSIFY.score(outputs, np.array([1, 1])) == 0.5
    assert largest_logit({n: torch.from_numpy(v) for n, v in outputs.items()}).tolist() == [3, 2]
    assert list(CLASSIFY.signals(outputs)) == ["map", "logits", "embedding"]


def test_a_lone_output_starts_the_backward_pass_with_its_largest_logit() -> None:
    assert CLASSIFY.objective_for([{"logits": CLEAN}], seed=0)({"logits": CLEAN}).tolist() == [3, 3]
    with_features = {"logits": CLEAN, "features": CLEAN[:, :2]}
    assert CLASSIFY.objective_for([with_features], seed=0)(with_features).tolist() != [3, 3]


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (np.zeros((2, 3, 4)), [0, 1], "needs logits .images, classes., the model gives 3x4 an image"),
        (np.zeros((2, 3)), [0, 3], "labels go up to class 3, the model has 3 classes"),
    ],
)
def test_labels_that_do_not_fit(outputs: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CLASSIFY.score({"outputs": outputs}, np.array(labels))


def test_agreement_is_the_share_of_equal_top_1() -> None:
    reference = np.array([[1, 2, 3], [9, 1, 1], [0, 5, 1], [0, 5, 1.0]])
    other = np.array([[1, 2, 4], [1, 9, 1], [0, 1, 0], [2, 1, 0.0]])
    assert CLASSIFY.agreement({"logits": reference}, {"logits": other}) == 0.5


def test_tasks_by_name() -> None:
    assert task_called("classify") is CLASSIFY
    with pytest.raises(InputError, match="no task 'guess'; choose from classify"):
        task_called("guess")
