"""Which axis has the classes, what a pixel's class is, and labels that do not fit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from qvit_deploy.data.labels.maps import LabelMap
from qvit_deploy.data.window import WHOLE, Window
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface, Output
from qvit_deploy.tasks.registry import task_called, task_of
from qvit_deploy.tasks.segment import Segment
from tests.support.interfaces import interface


def segment(shape: tuple[int | str, ...], text: str = "segment", image: tuple[int, int] = (64, 64)) -> Segment:
    task = task_of(interface({"masks": shape}, image), text)
    assert isinstance(task, Segment)
    return task


@pytest.mark.parametrize(
    ("shape", "image", "axis"),
    [
        (("b", 19, 16, 16), (64, 64), 1),
        (("b", 16, 16, 19), (64, 64), 3),
        (("b", 19, 16, 32), (64, 128), 1),
        (("b", 16, 32, 19), (64, 128), 3),
        (("b", 19, "h", "w"), (64, 64), 1),
        (("b", "h", "w", 19), (64, 64), 3),
        (("b", 1, 16, 16), (64, 64), 0),
        (("b", 16, 16, 1), (64, 64), 0),
        (("b", 16, 16), (64, 64), 0),
    ],
)
def test_the_axis_of_classes_is_found(shape: tuple[int | str, ...], image: tuple[int, int], axis: int) -> None:
    assert segment(shape, image=image).text == f"segment:output=masks,axis={axis}"


def test_an_axis_that_is_not_plain_has_to_be_said() -> None:
    with pytest.raises(InputError, match=r"\[b, 16, 16, 16\], does not tell .*segment:axis=1 or segment:axis=3"):
        segment(("b", 16, 16, 16))
    assert segment(("b", 16, 16, 16), "segment:axis=3").text == "segment:output=masks,axis=3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("segment:axis=2", "axis: is 1 for .* 3 for"),
        ("segment:axis=x", "axis: Input should be a valid integer"),
        ("segment:axes=1", "has no option 'axes'; it has output, axis, threshold, first, ignore"),
        ("segment:1", "'1' is not OPTION=VALUE"),
        ("segment:output=other", r"no output 'other'; it has 'masks' \[b, 5, 2, 2\]"),
        ("classify:x=1", "takes no options"),
    ],
)
def test_options_that_do_not_exist(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        task_of(interface({"masks": ("b", 5, 2, 2)}, (64, 64)), text)


def test_outputs_that_are_no_maps() -> None:
    with pytest.raises(InputError, match=r"needs an output of maps .* the model gives 'masks' \[b, 5\]"):
        segment(("b", 5))
    two = {"a": ("b", 5, 2, 2), "b": ("b", 7, 2, 2)}
    with pytest.raises(InputError, match=r"2 outputs fit .*say which with output=NAME"):
        task_of(interface(two, (64, 64)), "segment")
    assert task_of(interface(two, (64, 64)), "segment:output=b").text == "segment:output=b,axis=1"
    integers = Interface(
        (), (Output("i", ("b", 2, 2), ir.DataType.INT64, 0), Output("f", ("b", 9), ir.DataType.FLOAT, 0))
    )
    with pytest.raises(InputError, match="output 'i' is integers"):
        task_of(integers, "segment:output=i")
    shared = Interface((), (Output("s", (5, 2, 2), ir.DataType.FLOAT, None),))
    with pytest.raises(InputError, match="output 's' is one for all images"):
        task_of(shared, "segment:output=s")
    with pytest.raises(InputError, match="needs an output of maps"):
        task_of(shared, "segment")


def test_text_that_a_manifest_holds_is_the_task_again() -> None:
    task = segment(("b", 5, 2, 2), "segment:first=1,ignore=0,threshold=0.5")
    assert task_called(task.text) == task and hash(task_called(task.text)) == hash(task)
    assert task != task_called("segment") and task != task_called("outputs")


@pytest.mark.parametrize("text", ["segment:output=masks", "segment:axis=1"])
def test_an_edited_manifest_is_one_line(text: str) -> None:
    task = task_called(text)
    with pytest.raises(InputError, match=r"does not say its (axis|output); pass --task segment, or compile again"):
        task.agreement({"masks": np.zeros((1, 2, 2, 2))}, {"masks": np.zeros((1, 2, 2, 2))})


def test_classes_last_are_the_same_classes() -> None:
    scores = np.random.default_rng(0).standard_normal((2, 5, 3, 4))
    first, last = segment(("b", 5, 3, 4), "segment:axis=1"), segment(("b", 3, 4, 5), "segment:axis=3")
    np.testing.assert_array_equal(last.scores({"masks": scores.transpose(0, 2, 3, 1)}), scores)
    tensor = torch.from_numpy(scores.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(last.scores({"masks": tensor}), first.scores({"masks": scores}))


def test_a_binary_output_is_compared_with_the_threshold() -> None:
    task = segment(("b", 2, 2), "segment:threshold=0.5")
    reference, other = np.array([[[0.4, 0.6], [0.7, 0.9]]]), np.array([[[0.4, 0.4], [0.6, 0.6]]])
    assert task.agreement({"masks": reference}, {"masks": other}) == 0.75


def label(values: list[list[float]], window: Window = WHOLE) -> LabelMap:
    return LabelMap(np.array(values), window, "a.png")


def test_labels_count_from_first_and_leave_out_ignored_pixels() -> None:
    task = segment(("b", 2, 2, 2), "segment:axis=1,first=1,ignore=0")
    scores = np.array([[[1.0, 1], [0, 0]], [[0.0, 0], [1, 1]]])
    assert task.confusion(scores, label([[1, 2], [0, 2]])).tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, 1], [5, 7]], r"labels? map of a\.png has the number 7, the model has 5 classes from 0 on and 255"),
        ([[0.5, 1], [0, 0]], "holds float64, not whole numbers"),
    ],
)
def test_labels_that_do_not_fit(values: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        segment(("b", 5, 2, 2)).confusion(np.zeros((5, 2, 2)), label(values))


def test_the_metric_of_a_pixel() -> None:
    task = segment(("b", 5, 2, 3), "segment:axis=1")
    outputs = {"masks": torch.arange(60.0).reshape(2, 5, 2, 3)}
    assert task.parse_metric("pixel:1,2,4")(outputs, outputs)(outputs).tolist() == [29, 59]
    assert task.metric_text("pixel:1,2,4") == "the score of class 4 at row 1, column 2"
    for metric, message in (
        ("pixel:2,0,0", "row 2 is out of range, the model has 0 to 1"),
        ("pixel:0,3,0", "column 3"),
        ("pixel:0,0,5", "class 5"),
    ):
        with pytest.raises(InputError, match=message):
            task.parse_metric(metric)(outputs, outputs)(outputs)
    for metric, message in (
        ("pixel:1,2", "give pixel:ROW,COL,CLASS, e.g. pixel:3,4,5"),
        ("pixel", "give pixel"),
        ("logit-diff", "no metric 'logit-diff' for task 'segment'; choose from output-change, pixel:ROW,COL,CLASS"),
    ):
        with pytest.raises(InputError, match=message):
            task.parse_metric(metric)


def test_a_binary_pixel_has_two_classes() -> None:
    task = segment(("b", 1, 2, 2))
    outputs = {"masks": torch.tensor([[[[1.0, 2], [3, 4]]]])}
    assert task.parse_metric("pixel:1,0,1")(outputs, outputs)(outputs).tolist() == [3]
    assert task.parse_metric("pixel:1,0,0")(outputs, outputs)(outputs).tolist() == [-3]
