"""The detection task: what has to be said of a model, agreement of detections, COCO's precision over batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qvit_deploy.data.images import open_images
from qvit_deploy.data.labels.boxes import coco_boxes
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.tasks.detect.task import Detect
from qvit_deploy.tasks.registry import task_of
from tests.support.interfaces import interface

DETR = {"logits": ("b", 2, 3), "pred_boxes": ("b", 2, 4)}


def detect(text: str, outputs: dict[str, tuple[int | str, ...]] = DETR) -> Detect:  # type: ignore[assignment]
    task = task_of(interface(outputs, (100, 200)), text)
    assert isinstance(task, Detect)
    return task


def outputs(*queries: tuple[int, float, float]) -> dict[str, np.ndarray]:
    """One image with two queries: (class, logit of it, width of its box)."""
    logits, boxes = np.zeros((1, 2, 3)), np.zeros((1, 2, 4))
    for q, (number, logit, width) in enumerate(queries):
        logits[0, q, number] = logit
        boxes[0, q] = width / 2, 0.5, width, 1
    return {"logits": logits, "pred_boxes": boxes}


def test_the_head_has_to_be_said_unless_it_is_yolo() -> None:
    with pytest.raises(InputError, match=r"logits \['b', 2, 3\].*say detect:head=softmax .*detect:head=sigmoid"):
        detect("detect")
    assert detect("detect:head=softmax").text == (
        "detect:head=softmax,logits=logits,boxes=pred_boxes,score=0.5,size=100x200"
    )
    assert detect("detect", {"output0": ("b", 84, 8400)}).text == (
        "detect:head=yolo,logits=output0,boxes=output0,score=0.25,size=100x200"
    )
    with pytest.raises(InputError, match="none of the outputs may be the boxes"):
        detect("detect:head=sigmoid", {"logits": ("b", 10)})


@pytest.mark.parametrize("shape", [("b", 25200, 85), ("b", 25200, 6)])
def test_one_output_whose_anchors_may_come_first_is_not_guessed_at(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(InputError, match="more rows than columns; say detect:head=yolo"):
        detect("detect", {"output0": shape})
    assert detect("detect:head=yolo", {"output0": shape}).head == "yolo"


def test_agreement_counts_both_models_detections() -> None:
    task = detect("detect:head=softmax,score=0.4")
    exact = outputs((0, 9, 1.0), (1, 9, 0.5))
    assert task.agreement(exact, exact) == 1
    assert task.agreement(exact, outputs((0, 9, 0.9), (1, 9, 0.2))) == 0.5  # overlaps 0.9 and 0.4
    assert task.agreement(exact, outputs((0, 9, 1.0), (2, 9, 0.5))) == pytest.approx(2 / 3)  # "nothing" is none
    assert task.agreement(exact, outputs((1, 9, 0.1), (0, 9, 0.1))) == 0
    nothing = outputs((2, 9, 1.0), (2, 9, 1.0))
    assert task.agreement(nothing, nothing) == 1 and task.agreement(exact, nothing) == 0


def test_precision_over_batches_with_and_without_a_float_model(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    for name in "ab":
        Image.fromarray(np.zeros((50, 100, 3), np.uint8)).save(tmp_path / f"{name}.png")
    images = open_images(str(tmp_path), Preprocess(input_size=(3, 100, 200), mean=(0.0,), std=(1.0,)))
    annotations = [
        {"image_id": i, "category_id": c, "bbox": [0, 0, width, 50]} for i, c, width in ((1, 10, 100), (2, 20, 50))
    ]
    tree = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 10, "name": "x"}, {"id": 20, "name": "y"}], "annotations": annotations,
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    labels = coco_boxes(tmp_path / "coco.json", images)
    task = detect("detect:head=softmax")
    right = [outputs((0, 9, 1.0), (2, 9, 1)), outputs((1, 9, 0.5), (2, 9, 1))]
    half = [outputs((0, 9, 1.0), (2, 9, 1)), outputs((1, 9, 0.1), (2, 9, 1))]
    tally, alone = task.tally(labels), task.tally(labels)
    for i in range(2):
        tally.add(half[i], right[i], slice(i, i + 1))
        alone.add(half[i], None, slice(i, i + 1))
    ap, ap50, _ = tally.by_labels()
    assert (ap.key, ap.value, ap.of_float) == ("ap", pytest.approx(0.5), pytest.approx(1))
    assert ap50.text == "AP50 50.0% (float 100.0%)"
    assert alone.by_labels()[0].value == pytest.approx(0.5) and alone.to_float() == []
    assert tally.to_float()[0].text == "detections as in float 50.0% (score 0.5, 4 of both)"


def test_classes_that_the_labels_do_not_have_are_seen_at_the_first_batch(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    Image.fromarray(np.zeros((50, 100, 3), np.uint8)).save(tmp_path / "a.png")
    images = open_images(str(tmp_path), Preprocess(input_size=(3, 100, 200), mean=(0.0,), std=(1.0,)))
    tree = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 9, "name": "x"}], "annotations": []}
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    tally = detect("detect:head=softmax").tally(coco_boxes(tmp_path / "coco.json", images))
    with pytest.raises(InputError, match="the model tells 2 classes apart"):
        tally.add(outputs((0, 9, 1.0), (2, 9, 1)), None, slice(0, 1))


def test_the_metric_of_a_query() -> None:
    logits = torch.arange(12.0).reshape(2, 2, 3)
    values = {"logits": logits, "pred_boxes": torch.zeros(2, 2, 4)}
    task = detect("detect:head=softmax")
    assert task.parse_metric("query:1,0")(values, values)(values).tolist() == [3, 9]
    assert task.metric_text("query:1,0") == "the logit of class 0 at query 1"
    with pytest.raises(InputError, match="query 2 is out of range, the model has 0 to 1"):
        task.parse_metric("query:2,0")(values, values)(values)
    yolo = {"output0": torch.arange(12.0).reshape(1, 6, 2)}
    head = detect("detect:head=yolo", {"output0": ("b", 6, 2)})
    assert head.parse_metric("query:1,0")(yolo, yolo)(yolo).tolist() == [9]


ENDS = {"output0": ("b", 300, 6)}


def rows(*boxes: tuple[float, float, int], right: float = 200) -> dict[str, np.ndarray]:
    """One image of 100 x 200 pixels: (left, score, class) of boxes that reach to its right end."""
    output = np.zeros((1, 300, 6), np.float32)
    for i, (left, score, number) in enumerate(boxes):
        output[0, i] = left, 0, right, 100, score, number
    return {"output0": output}


@pytest.mark.parametrize(
    ("shape", "head"), [(("b", 300, 6), "end2end"), ((1, "n", 6), "end2end"), (("b", 6, 8400), "yolo")]
)
def test_a_lone_output_of_six_numbers_is_end_to_end(shape: tuple[int | str, ...], head: str) -> None:
    assert detect("detect", {"output0": shape}).head == head


def test_an_end_to_end_head_is_compared_by_its_detections() -> None:
    task = detect("detect", ENDS)
    assert task.text == "detect:head=end2end,logits=output0,boxes=output0,score=0.25,size=100x200"
    exact = rows((0, 0.9, 1), (100, 0.8, 2), (50, 0.1, 3))
    assert task.agreement(exact, rows((100, 0.9, 2), (0, 0.8, 1))) == 1
    assert task.agreement(exact, rows((0, 0.9, 1), (100, 0.8, 3))) == 0.5


def test_rows_of_no_account_may_change_places() -> None:
    """Their scores are one bit apart, and an SQNR of the rows as they stand would be 3 dB."""
    task = detect("detect", ENDS)
    exact, other = rows((0, 0.9, 1), (10, 1e-4, 70), (190, 1e-4, 3)), rows((0, 0.9, 1), (190, 1e-4, 3), (10, 1e-4, 70))
    assert task.sqnr_db(exact, other) > 60 and max(task.relative_errors(exact, other).values()) < 1e-3
    assert task.sqnr_db(exact, rows((0, 0.8, 1))) < 20 and task.sqnr_db(exact, rows((60, 0.9, 1))) < 20
    tensors = {name: torch.from_numpy(value) for name, value in exact.items()}
    np.testing.assert_array_equal(task.signals(tensors)["output0"].numpy(), task.signals(exact)["output0"])


def test_an_end_to_end_head_has_no_scores_of_queries() -> None:
    task, values = detect("detect", ENDS), {"output0": torch.zeros(1, 300, 6)}
    with pytest.raises(InputError, match=r"'query:1,0': an end-to-end head gives no scores .* choose output-change"):
        task.parse_metric("query:1,0")(values, values)(values)


def test_how_many_classes_an_end_to_end_head_tells_apart(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    Image.fromarray(np.zeros((50, 100, 3), np.uint8)).save(tmp_path / "a.png")
    images = open_images(str(tmp_path), Preprocess(input_size=(3, 100, 200), mean=(0.0,), std=(1.0,)))
    categories = [{"id": i, "name": str(i)} for i in (2, 7)]
    annotations = [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 100, 50]}]
    tree = {"images": [{"id": 1, "file_name": "a.png"}], "categories": categories, "annotations": annotations}
    (tmp_path / "coco.json").write_text(json.dumps(tree))
    labels = coco_boxes(tmp_path / "coco.json", images)

    def precision(text: str, number: int) -> float | None:
        tally = detect(text, ENDS).tally(labels)
        tally.add(rows((0, 0.9, number)), None, slice(0, 1))
        return tally.by_labels()[0].value

    assert precision("detect", 1) == pytest.approx(1)  # the categories in order
    assert precision("detect:classes=8", 7) == pytest.approx(1)  # their ids
    with pytest.raises(InputError, match=r"finds class 7, and the labels have 2 categories; say .*detect:classes=N"):
        precision("detect", 7)
