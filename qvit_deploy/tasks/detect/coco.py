"""COCO's average precision, computed by its own reference implementation, pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.data.labels.boxes import ImageBoxes
from qvit_deploy.errors import InputError
from qvit_deploy.tasks.scores.detections import Detections


class Precision(NamedTuple):
    """Average precision in [0, 1]: over the overlaps 0.50, 0.55, ... 0.95, and at 0.50 and 0.75 alone; -1 where no
    object counts."""

    ap: float
    ap50: float
    ap75: float


def require_pycocotools() -> None:
    """Raises InputError that says how to install pycocotools, unless it is there."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise InputError("COCO's average precision needs pycocotools: pip install 'qvit-deploy[detect]'") from None


def categories_of_classes(category_ids: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Returns the category of each of a model's classes, int64 [classes].

    As many classes as categories are the categories in the order of their ids (RT-DETR and YOLO have 80 for COCO); more
    classes than the largest id are the ids themselves (DETR has 91 for COCO's ids 1 to 90).

    Raises:
        InputError: neither is so.
    """
    if classes == len(category_ids):
        return category_ids
    if classes > category_ids.max():
        return np.arange(classes)
    raise InputError(
        f"task detect: the model tells {classes} classes apart, which are neither the {len(category_ids)} categories "
        f"of the labels nor their ids up to {category_ids.max()}"
    )


def average_precision(
    detections: Sequence[Detections], labels: Sequence[ImageBoxes], categories: NDArray[np.int64]
) -> Precision:
    """Measures the detections of every image by its labels.

    Args:
        categories: the category of every class, int64 [classes] (`categories_of_classes`).

    Raises:
        InputError: pycocotools is missing.
    """
    require_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    known = np.unique(np.concatenate([categories, *(s.categories for s in labels)]))
    truth, nothing = COCO(), COCO()
    truth.dataset = {
        "images": [{"id": i, "height": s.size[0], "width": s.size[1]} for i, s in enumerate(labels)],
        "categories": [{"id": int(c)} for c in known],
        "annotations": [a for i, s in enumerate(labels) for a in _annotations(i, s)],
    }
    for identity, annotation in enumerate(truth.dataset["annotations"], 1):  # pycocotools takes 0 for "no match"
        annotation["id"] = identity
    rows = [row for i, (d, s) in enumerate(zip(detections, labels, strict=True)) for row in _rows(i, d, s, categories)]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth.createIndex()
        # It cannot load a list of no results.
        evaluation = COCOeval(truth, truth.loadRes(np.array(rows)) if rows else nothing, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return Precision(*(float(v) for v in evaluation.stats[:3]))


def _annotations(image: int, labels: ImageBoxes) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image, "category_id": int(category), "bbox": box.tolist(), "area": float(area),
            "iscrowd": int(crowd),
        }
        for box, category, area, crowd in zip(
            labels.boxes, labels.categories, labels.areas, labels.crowd, strict=True
        )
    ]  # fmt: skip


def _rows(
    image: int, detections: Detections, labels: ImageBoxes, categories: NDArray[np.int64]
) -> list[tuple[float, ...]]:
    """Returns (image, left, top, width, height, score, category) of each detection, in pixels of the picture."""
    window, (height, width) = labels.window, labels.size
    x = (window.left + detections.boxes[:, ::2] * (window.right - window.left)) * width
    y = (window.top + detections.boxes[:, 1::2] * (window.bottom - window.top)) * height
    return [
        (image, left, top, right - left, bottom - top, score, categories[c])
        for (left, right), (top, bottom), score, c in zip(x, y, detections.scores, detections.classes, strict=True)
    ]
