"""Reads detections off the outputs of detectors: what each kind of head means by its numbers.

* `softmax`: logits [b, queries, classes + 1] of which the last class is "nothing", boxes [b, queries, 4] as (centre x,
  centre y, width, height) in shares of the input: DETR (arXiv 2005.12872), YOLOS. Every
  query is one detection, of its best class.
* `sigmoid`: logits [b, queries, classes], boxes as above: Deformable DETR, RT-DETR (arXiv 2304.08069), D-FINE, OWL-ViT.
  The best pairs of query and class are the detections.
* `yolo`: one output [b, 4 + classes, anchors], boxes in pixels of the input and probabilities, as Ultralytics exports
  YOLOv8 to 12. Overlapping boxes of a class are suppressed.
* `end2end`: one output [b, detections, 6] of (left, top, right, bottom) in pixels of the input, a probability and the
  number of a class: YOLOv10 (arXiv 2405.14458), YOLO26, and what is exported with its suppression inside, which fills
  up with zeros. Every row is one detection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.scores.detections import Detections, ranked, suppressed

Head = Literal["softmax", "sigmoid", "yolo", "end2end"]

MOST = 100
"""Detections of one image that count, as in COCO's evaluation."""

YOLO_SCORE, YOLO_OVERLAP, YOLO_CANDIDATES = 0.001, 0.7, 3000
"""Ultralytics' values for validation; the candidates with the highest scores go into the suppression."""

_ROW = 6
"""Numbers of a detection that an end-to-end head gives."""

_MOST_ROWS = 1000
"""Detections an image of an end-to-end head, at most (exporters write 300); more rows of six numbers are anchors."""

_BOX_NAMES = ("pred_boxes", "boxes", "bboxes")
_LOGIT_NAMES = ("logits", "pred_logits", "scores", "class_logits")


def _is_wide(shape: tuple[Any, ...]) -> bool:
    return not (isinstance(shape[1], int) and shape[1] < 5)


def is_ranked(shape: tuple[Any, ...]) -> bool:
    """Returns whether an output of three dimensions may be that of an end-to-end head."""
    few = not isinstance(shape[1], int) or shape[1] <= _MOST_ROWS
    return shape[2] == _ROW and few


LONE: Mapping[Head, tuple[Callable[[tuple[Any, ...]], bool], str]] = {
    "yolo": (_is_wide, "a YOLO head is one output [batch, 4 + classes, anchors]"),
    "end2end": (is_ranked, f"an end-to-end head is one output [batch, detections, {_ROW}]"),
}
"""Heads of one output -> whether an output of three dimensions may be it, and the words for that."""


class Shaped(Protocol):
    """A numpy array, a torch tensor, or anything else that has a shape."""

    @property
    def shape(self) -> Any: ...


class Places(NamedTuple):
    """The names of the outputs that a head reads; `LONE` heads have both in one."""

    logits: str
    boxes: str


def places(outputs: Mapping[str, Shaped], head: Head | None, logits: str | None, boxes: str | None) -> Places:
    """Finds logits and boxes by name and shape, or takes those that are named.

    Raises:
        InputError: none or several would fit, or a named one does not exist or does not fit.
    """
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    for name in (logits, boxes):
        if name is not None and name not in shapes:
            raise InputError(f"task detect: the model has no output {name!r}; it has {', '.join(shapes)}")
    if head is not None and head in LONE:
        fits, described = LONE[head]
        fitting = [n for n, s in shapes.items() if len(s) == 3 and fits(s)]
        wide = fitting if boxes is None else [boxes]
        if len(wide) != 1 or wide[0] not in fitting:
            raise InputError(f"task detect: {described}, the model has {listed(shapes)}; name it with boxes=NAME")
        return Places(wide[0], wide[0])
    found_boxes = boxes or _one(
        [n for n, s in shapes.items() if len(s) == 3 and s[2] == 4], _BOX_NAMES, "box", "boxes", shapes
    )
    fitting = [n for n, s in shapes.items() if n != found_boxes and _of_the_same(s, shapes[found_boxes])]
    found_logits = logits or _one(fitting, _LOGIT_NAMES, "logit", "logits", shapes)
    shape = shapes[found_logits]
    if found_logits not in fitting or shapes[found_boxes][2] != 4:
        raise InputError(
            "task detect: logits [batch, queries, classes] and boxes [batch, queries, 4] are needed, "
            f"{found_logits} is {list(shape)} and {found_boxes} is {list(shapes[found_boxes])}"
        )
    return Places(found_logits, found_boxes)


def detections(head: Head, logits: NDArray[Any], boxes: NDArray[Any], input_size: tuple[int, int]) -> list[Detections]:
    """Returns what is found on every image of a batch, at most `MOST` each.

    Args:
        logits, boxes: the outputs of `places`, the same for a head of one.
        input_size: (height, width) of the model's input, in whose pixels heads of one output have their boxes.
    """
    height, width = input_size
    scale = np.array([width, height, width, height], np.float64)
    if head == "yolo":
        return [_yolo(image[:4].T / scale, image[4:]) for image in boxes.astype(np.float64)]
    if head == "end2end":
        return [_end2end(rows[:, :4] / scale, rows[:, 4], rows[:, 5]) for rows in boxes.astype(np.float64)]
    read = _softmax if head == "softmax" else _sigmoid
    return [read(rows, corners(places)) for rows, places in zip(logits.astype(np.float64), boxes, strict=True)]


def classes_of(head: Head, logits: tuple[int, ...]) -> int | None:
    """Returns how many classes the head tells apart, by the shape of its logits; None where that does not say it."""
    return {"softmax": logits[2] - 1, "sigmoid": logits[2], "yolo": logits[1] - 4, "end2end": None}[head]


def corners(boxes: NDArray[Any]) -> NDArray[np.float64]:
    """Turns boxes [n, 4] from (centre x, centre y, width, height) to (left, top, right, bottom)."""
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64) / 2
    return np.concatenate([centre - half, centre + half], 1)


def listed(shapes: Mapping[str, tuple[Any, ...]]) -> str:
    """Names outputs with their shapes: logits [1, 100, 92], pred_boxes [1, 100, 4]."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def _softmax(logits: NDArray[np.float64], boxes: NDArray[np.float64]) -> Detections:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares = (shares / shares.sum(1, keepdims=True))[:, :-1]
    return ranked(boxes, shares.argmax(1), shares.max(1), MOST)


def _sigmoid(logits: NDArray[np.float64], boxes: NDArray[np.float64]) -> Detections:
    shares = np.exp(-np.logaddexp(0, -logits)).ravel()
    query, classes = np.divmod(np.arange(shares.size), logits.shape[1])
    best = np.argsort(-shares, kind="stable")[:MOST]
    return ranked(boxes[query[best]], classes[best], shares[best], MOST)


def _yolo(boxes: NDArray[np.float64], shares: NDArray[np.float64]) -> Detections:
    """Boxes [anchors, 4] by their centres, in shares of the input; probabilities [classes, anchors]."""
    classes, anchor = np.nonzero(shares >= YOLO_SCORE)
    candidates = ranked(corners(boxes[anchor]), classes, shares[classes, anchor], YOLO_CANDIDATES)
    return suppressed(candidates, YOLO_OVERLAP).at(slice(MOST))


def _end2end(boxes: NDArray[np.float64], shares: NDArray[np.float64], classes: NDArray[np.float64]) -> Detections:
    """Boxes [detections, 4] by their corners, in shares of the input."""
    real = shares > 0
    return ranked(boxes[real], np.rint(classes[real]), shares[real], MOST)


def _of_the_same(logits: tuple[Any, ...], boxes: tuple[Any, ...]) -> bool:
    """Returns whether both shapes are [batch, queries, ...] with the same queries, as far as these are known."""
    known = [s[1] for s in (logits, boxes) if len(s) == 3 and isinstance(s[1], int)]
    return len(logits) == len(boxes) == 3 and len(set(known)) <= 1


def _one(
    candidates: list[str], names: tuple[str, ...], part: str, what: str, shapes: Mapping[str, tuple[int, ...]]
) -> str:
    """Returns the candidate with a usual name, or the only one that has `part` in its name, or the only one."""
    for chosen in (
        [n for n in names if n in candidates][:1],
        [n for n in candidates if part in n.lower()],
        candidates,
    ):
        if len(chosen) == 1:
            return chosen[0]
    have = "none" if not candidates else "several"
    raise InputError(f"task detect: {have} of the outputs may be the {what} ({listed(shapes)}); say {what}=NAME")
