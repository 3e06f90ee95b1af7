"""COCO files: whose boxes they are, and what makes one unusable."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvit_deploy.data.images import ImageSet, open_images
from qvit_deploy.data.labels.boxes import MAX_BYTES, coco_boxes
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.data.window import Window
from qvit_deploy.errors import InputError

P = Preprocess(input_size=(3, 4, 4), mean=(0.0,), std=(1.0,))


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    for name in "ab":
        Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save(tmp_path / f"{name}.png")
    return open_images(str(tmp_path), P)


def coco(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "info": {"year": 2017},
        "images": [{"id": 7, "file_name": "val/b.png", "height": 4}, {"id": 3, "file_name": "a.png"}],
        "categories": [{"id": 90, "name": "eel"}, {"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 3, 4], "iscrowd": 1, "segmentation": {}},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 2, 2.5], "area": 3},
        ],
    }
    return tree | changes


def written(tmp_path: Path, tree: object) -> Path:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(tree))
    return path


def test_boxes_by_file_name(tmp_path: Path, images: ImageSet) -> None:
    labels = coco_boxes(written(tmp_path, coco()), images)
    assert len(labels) == 2 and labels.category_ids.tolist() == [1, 90]
    assert labels[0].boxes.shape == (0, 4)
    boxes = labels[1]
    assert boxes.boxes.tolist() == [[1, 2, 3, 4], [0, 0, 2, 2.5]] and boxes.categories.tolist() == [90, 1]
    assert boxes.areas.tolist() == [12, 3] and boxes.crowd.tolist() == [True, False]
    assert boxes.size == (4, 8) and boxes.window == Window(0, 0.25, 1, 0.75)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "Input should be a valid dictionary"),
        ({"images": []}, "categories"),
        (coco(images=[{"id": 3, "file_name": "a.png"}], annotations=[]), r"1 of 2 pictures are not in it.*b\.png"),
        (coco(images=[{"id": 3, "file_name": "a.png"}]), r"annotations\.0 is of a picture that the file does not list"),
        (coco(categories=[{"id": 1, "name": "cat"}]), r"annotations\.0 is of a category"),
        (coco(categories=[{"id": 1, "name": "cat"}] * 2), "category ids are given twice"),
        (coco(annotations=[{"image_id": 7, "category_id": 1, "bbox": [0, 0, -1, 2]}]), r"annotations\.0\.bbox\.2"),
        (coco(annotations=[{"image_id": 7, "category_id": 1, "bbox": [0, 0, float("nan"), 2]}]), "finite"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, images: ImageSet, tree: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        coco_boxes(written(tmp_path, tree), images)
    assert "\n" not in str(refused.value)


def test_a_file_larger_than_any_is_not_read(tmp_path: Path, images: ImageSet) -> None:
    path = written(tmp_path, coco())
    os.truncate(path, MAX_BYTES + 1)  # a hole, which takes no room on the disk
    with pytest.raises(InputError, match=r"1\.1 GB is more than any COCO file"):
        coco_boxes(path, images)
