"""Boxes with classes and scores, when two of them are the same, and which of many overlapping ones are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Detections:
    """What a model finds on one image, the highest score first.

    Attributes:
        boxes: float64 [n, 4], (left, top, right, bottom) in shares of the model's input.
        classes: int64 [n].
        scores: float64 [n], in [0, 1].
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, chosen: NDArray[Any] | slice) -> Detections:
        """Returns some of the detections, by a mask, indices or a slice."""
        return Detections(self.boxes[chosen], self.classes[chosen], self.scores[chosen])

    def above(self, score: float) -> Detections:
        """Returns the detections with at least this score."""
        return self.at(self.scores >= score)


def ranked(boxes: NDArray[Any], classes: NDArray[Any], scores: NDArray[Any], most: int) -> Detections:
    """Returns the `most` detections with the highest scores; equal scores keep their order."""
    order = np.argsort(-scores, kind="stable")[:most]
    return Detections(
        boxes[order].astype(np.float64), classes[order].astype(np.int64), scores[order].astype(np.float64)
    )


def box_iou(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Returns intersection over union of boxes [n, 4] and [m, 4] (left, top, right, bottom), float64 [n, m]; 0 for
    boxes without an area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    union = _area(a)[:, None] + _area(b)[None, :] - both
    shares: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return shares


def suppressed(detections: Detections, overlap: float) -> Detections:
    """Leaves out every box that overlaps a kept one of its class and a higher score by more than `overlap` (IoU):
    non-maximum suppression, class by class."""
    keep = np.ones(len(detections), bool)
    for c in np.unique(detections.classes):
        places = np.flatnonzero(detections.classes == c)
        overlaps = box_iou(detections.boxes[places], detections.boxes[places]) > overlap
        for i, place in enumerate(places):
            if keep[place]:
                keep[places[i + 1 :]] &= ~overlaps[i, i + 1 :]
    return detections.at(keep)


MATCHING_IOU = 0.5
"""Overlap from which on two boxes are of one object, as in COCO's AP50."""


def matched(reference: Detections, other: Detections) -> int:
    """Returns how many of `other` are one of `reference`: of the same class, at `MATCHING_IOU` or more, each used once.

    The highest scores of `other` choose first, and take the reference that they overlap most.
    """
    if not len(reference) or not len(other):
        return 0
    overlaps = box_iou(other.boxes, reference.boxes)
    overlaps[other.classes[:, None] != reference.classes[None, :]] = -1
    count = 0
    for row in overlaps:  # in order of scores
        best = int(row.argmax())
        if row[best] >= MATCHING_IOU:
            overlaps[:, best] = -1
            count += 1
    return count


def _area(boxes: NDArray[Any]) -> NDArray[np.float64]:
    area: NDArray[np.float64] = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1)
    return area
