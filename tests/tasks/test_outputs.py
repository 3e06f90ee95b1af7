"""What is measured of a model whose outputs have no meaning that the compiler knows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.graph.interface import Interface, Output
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.outputs import OUTPUTS
from qvit_deploy.tasks.registry import task_of
from qvit_deploy.tasks.task import Task

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64


def interface(*outputs: tuple[tuple[int | str, ...], ir.DataType]) -> Interface:
    return Interface((), tuple(Output(f"out{i}", shape, dtype, 0) for i, (shape, dtype) in enumerate(outputs)))


@pytest.fixture
def reference() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "scores": random.standard_normal((4, 5)), "indices": random.integers(0, 9, (4, 5)),
        "map": random.standard_normal((4, 3, 2)), "anchors": np.broadcast_to(np.arange(6.0), (4, 6)),
    }  # fmt: skip


def test_sqnr_is_that_of_the_worst_output_and_given_for_each_that_varies(reference: dict[str, np.ndarray]) -> None:
    other = {
        **reference,
        "scores": 1.01 * reference["scores"],
        "map": 1.1 * reference["map"],
        "anchors": np.ones((4, 6)),
    }
    ratios = OUTPUTS.sqnr_by_output(reference, other)
    assert list(ratios.items()) == [("map", pytest.approx(20)), ("scores", pytest.approx(40))]
    assert OUTPUTS.sqnr_db(reference, other) == pytest.approx(20)


def test_the_largest_difference_has_the_name_of_its_output(reference: dict[str, np.ndarray]) -> None:
    other = {**reference, "anchors": reference["anchors"] + [0, 0, 1, 0, 0, 0]}
    assert next(iter(OUTPUTS.relative_errors(reference, other).items())) == ("anchors", pytest.approx(0.2))


def test_a_number_that_is_none_is_reported_with_its_output(reference: dict[str, np.ndarray]) -> None:
    OUTPUTS.require_finite(reference, "the file")
    with pytest.raises(CheckError, match="the file gives NaN or infinity in output 'map'"):
        OUTPUTS.require_finite({**reference, "map": reference["map"] * np.inf}, "the file")


def test_models_agree_on_integers_where_they_give_some(reference: dict[str, np.ndarray]) -> None:
    other = reference["indices"].copy()
    other[0, :2] += 1
    assert OUTPUTS.agreement(reference, {**reference, "indices": other}) == pytest.approx(0.9)
    assert OUTPUTS.agreement({"map": reference["map"]}, {"map": reference["map"]}) is None
    assert OUTPUTS.answers(reference) is None


def test_the_change_of_outputs_is_their_noise_to_signal_ratio_on_the_clean_image() -> None:
    clean = {"a": torch.tensor([[2.0, 0.0]]), "b": torch.tensor([[0.0, 5.0]])}
    corrupt = {"a": torch.tensor([[2.0, 1.0]]), "b": torch.tensor([[0.0, 4.0]])}
    metric = OUTPUTS.parse_metric("output-change")(clean, corrupt)
    assert metric(corrupt).tolist() == [0]
    assert metric(clean).tolist() == pytest.approx([1 / 4 + 1 / 25])
    with pytest.raises(InputError, match="no metric 'logit' for task 'outputs'; choose from output-change"):
        OUTPUTS.parse_metric("logit")


@pytest.mark.parametrize(
    ("outputs", "task"),
    [
        ([(("batch", 10), FLOAT)], CLASSIFY),
        ([(("batch", 10), ir.DataType.FLOAT16)], CLASSIFY),
        ([(("batch", 10, 8, 8), FLOAT)], OUTPUTS),
        ([((10,), FLOAT)], OUTPUTS),
        ([(("batch", 10), FLOAT), (("batch", 4), FLOAT)], OUTPUTS),
        ([(("batch", 10), FLOAT), (("batch", 4), INT64)], OUTPUTS),
    ],
)
def test_only_one_output_of_batch_and_classes_is_taken_for_logits(
    outputs: list[tuple[tuple[int | str, ...], ir.DataType]], task: Task
) -> None:
    assert task_of(interface(*outputs), None) is task


def test_a_task_that_the_outputs_cannot_be_about() -> None:
    assert task_of(interface((("batch", 10), FLOAT)), "outputs") is OUTPUTS
    assert task_of(interface((("batch", 10, 7), FLOAT), (("batch", 4), FLOAT)), "classify") is CLASSIFY
    with pytest.raises(InputError, match=r"needs an output of logits .*; the model gives 'out0' \[batch, 64, 10\]"):
        task_of(interface((("batch", 64, 10), FLOAT)), "classify")
    with pytest.raises(InputError, match=r"no floating-point output \('out0'\)"):
        task_of(interface((("batch", 64), INT64)), None)
    with pytest.raises(InputError, match="no task 'guess'"):
        task_of(interface((("batch", 10), FLOAT)), "guess")
