"""What each kind of head means, and which outputs are which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.detect.heads import detections, places

QUERIES = np.zeros((1, 5, 4))


def test_softmax_leaves_the_last_class_out() -> None:
    logits = np.log(np.array([[[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]]))
    boxes = np.array([[[0.5, 0.5, 1, 1], [0.5, 0.25, 0.2, 0.1]]], np.float32)
    (detected,) = detections("softmax", logits, boxes, (8, 8))
    assert detected.classes.tolist() == [0, 1]
    np.testing.assert_allclose(detected.scores, [0.6, 0.2])
    np.testing.assert_allclose(detected.boxes, [[0.4, 0.2, 0.6, 0.3], [0, 0, 1, 1]], atol=1e-7)


def test_sigmoid_takes_every_class_of_a_query() -> None:
    logits = np.array([[[0.0, -800.0], [np.log(3), np.log(1 / 3)]]])
    (detected,) = detections("sigmoid", logits, np.zeros((1, 2, 4)), (8, 8))
    assert detected.classes.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(detected.scores, [0.75, 0.5, 0.25, 0], atol=1e-12)


def test_yolo_suppresses_and_counts_in_pixels() -> None:
    out = np.zeros((1, 4 + 2, 3))
    out[0, :4, 0], out[0, :4, 1], out[0, :4, 2] = (8, 4, 16, 8), (8, 4, 16, 7.9), (4, 2, 8, 4)
    out[0, 4:] = [[0.9, 0.8, 0.0005], [0, 0, 0.4]]
    (detected,) = detections("yolo", out, out, (8, 16))
    assert detected.classes.tolist() == [0, 1] and detected.scores.tolist() == [0.9, 0.4]
    np.testing.assert_allclose(detected.boxes, [[0, 0, 1, 1], [0, 0, 0.5, 0.5]])


def test_an_end_to_end_head_has_corners_in_pixels_and_fills_up_with_zeros() -> None:
    rows = np.zeros((2, 3, 6), np.float32)
    rows[0, :2] = [(8, 4, 16, 8, 0.9, 3), (0, 0, 4, 8, 0.2, 0)]
    rows[1, 1] = (0, 0, 16, 8, 0.3, 79)
    detected, other = detections("end2end", rows, rows, (8, 16))
    assert detected.classes.tolist() == [3, 0] and other.classes.tolist() == [79]
    np.testing.assert_allclose(detected.scores, [0.9, 0.2], rtol=1e-6)
    np.testing.assert_allclose(detected.boxes, [[0.5, 0.5, 1, 1], [0, 0, 0.25, 1]])
    np.testing.assert_allclose(other.boxes, [[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("outputs", "named", "expected"),
    [
        ({"logits": (1, 5, 92), "pred_boxes": (1, 5, 4)}, {}, ("logits", "pred_boxes")),
        ({"logits": (1, 5, 9), "pred_boxes": (1, 5, 4), "last_hidden_state": (1, 5, 32), "memory": (1, 7, 32)}, {},
         ("logits", "pred_boxes")),
        ({"logits": (1, 5, 9), "pred_boxes": (1, 5, 4), "enc_topk_logits": (1, 5, 9), "enc_topk_bboxes": (1, 5, 4)}, {},
         ("logits", "pred_boxes")),
        ({"a": (1, 5, 9), "b": (1, 5, 4)}, {}, ("a", "b")),
        ({"a": (1, 5, 4), "b": (1, 5, 4)}, {"logits": "a", "boxes": "b"}, ("a", "b")),
        ({"output0": (1, 84, 8400)}, {"head": "yolo"}, ("output0", "output0")),
        ({"output0": (1, 300, 6), "proto": (1, 32, 8, 8)}, {"head": "end2end"}, ("output0", "output0")),
    ],
)  # fmt: skip
def test_which_output_is_which(
    outputs: dict[str, tuple[int, ...]], named: dict[str, Any], expected: tuple[str, str]
) -> None:
    arrays = {name: np.zeros(shape) for name, shape in outputs.items()}
    assert places(arrays, **({"head": "softmax", "logits": None, "boxes": None} | named)) == expected


@pytest.mark.parametrize(
    ("outputs", "named", "message"),
    [
        ({"a": (1, 5, 4), "b": (1, 5, 4)}, {}, r"several of the outputs may be the boxes .*say boxes=NAME"),
        ({"a": (1, 5, 9), "b": (1, 5, 9), "c": (1, 5, 4)}, {}, r"several of the outputs may be the logits"),
        ({"logits": (1, 10)}, {}, r"none of the outputs may be the boxes \(logits \[1, 10\]\)"),
        ({"a": (1, 5, 9), "c": (1, 5, 4)}, {"boxes": "d"}, r"has no output 'd'; it has a, c"),
        ({"a": (1, 5, 9), "c": (1, 6, 4)}, {"logits": "a"}, r"a is \[1, 5, 9\] and c is \[1, 6, 4\]"),
        ({"a": (1, 84, 99), "c": (1, 84, 9)}, {"head": "yolo"}, r"name it with boxes=NAME"),
        (
            {"a": (1, 84, 99)},
            {"head": "end2end"},
            r"one output \[batch, detections, 6\], the model has a",
        ),
    ],
)
def test_outputs_that_are_not_plain(outputs: dict[str, tuple[int, ...]], named: dict[str, Any], message: str) -> None:
    arrays = {name: np.zeros(shape) for name, shape in outputs.items()}
    with pytest.raises(InputError, match=message):
        places(arrays, **({"head": "softmax", "logits": None, "boxes": None} | named))
