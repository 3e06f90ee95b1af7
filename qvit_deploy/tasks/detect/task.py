"""Detection: boxes with classes and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from qvit_deploy.data.labels.boxes import BoxLabels
from qvit_deploy.data.labels.opening import Labels
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface, Output
from qvit_deploy.tasks.configured import picture_size
from qvit_deploy.tasks.detect.coco import average_precision, categories_of_classes, require_pycocotools
from qvit_deploy.tasks.detect.heads import Head, classes_of, detections, is_ranked, listed, places
from qvit_deploy.tasks.placed import PlacedTask, in_range
from qvit_deploy.tasks.scores.detections import Detections, matched
from qvit_deploy.tasks.tally import AGREEMENT, Figure, Tally, share
from qvit_deploy.tasks.task import Arrays, Outputs, Task, Words
from qvit_deploy.tasks.views import View
from qvit_deploy.validation import Record

if TYPE_CHECKING:
    from torch import Tensor

    from qvit_deploy.tasks.task import Array

SCORES: dict[Head, float] = {"softmax": 0.5, "sigmoid": 0.5, "yolo": 0.25, "end2end": 0.25}
"""Scores above which the models' own demonstrations show a detection."""


class DetectOptions(Record):
    """What `detect` has to know of a model."""

    head: Head | None = Field(default=None, description="softmax (DETR, YOLOS), sigmoid (RT-DETR), yolo or end2end")
    logits: str | None = Field(default=None, description="the output of logits [batch, queries, classes]")
    boxes: str | None = Field(default=None, description="the output of boxes [batch, queries, 4], or a YOLO head's")
    score: float | None = Field(default=None, ge=0, le=1, description="the least of a detection that is compared")
    classes: int | None = Field(default=None, ge=1, description="how many an end2end head tells apart")
    size: str | None = Field(
        default=None, pattern=r"^[1-9]\d{0,5}x[1-9]\d{0,5}$", description="HEIGHTxWIDTH of the input"
    )


class Detect(PlacedTask[DetectOptions]):
    """Two outputs are logits [batch, queries, classes] and boxes [batch, queries, 4], or one has both."""

    name = "detect"
    words = Words(score="AP", same="detections", signal="outputs", answer="box", answers="boxes", counted="detections")
    labels = "boxes"
    place = "query"
    coordinates = (("N", "CLASS"),)

    def for_model(self, interface: Interface) -> Task:
        """Finds the outputs, and with one output alone the kind of head.

        Raises:
            InputError: no outputs or several fit; or the head is not said where it is not plain, as of one output with
                more rows than columns, whose anchors may be either.
        """
        super().for_model(interface)
        given, image = self.options, picture_size(interface)
        shapes = {o.name: o for o in interface.outputs if o.is_float and o.batch_axis == 0}
        head = given.head
        if head is None and len(shapes) == 1 and len(lone := (only := next(iter(shapes.values()))).shape) == 3:
            head = "end2end" if is_ranked(lone) else "yolo"
            if head == "yolo":
                _require_anchors_last(only)
        outputs = places(shapes, head, given.logits, given.boxes)
        if head is None:
            texts = listed({name: tuple(shapes[name].shape) for name in outputs})
            raise InputError(
                f"task detect: {texts} do not tell how scores are made of logits; say detect:head=softmax (the last "
                "class is 'nothing': DETR, YOLOS) or detect:head=sigmoid (RT-DETR, Deformable DETR, OWL-ViT)"
            )
        score = SCORES[head] if given.score is None else given.score
        size = given.size if image is None else f"{image[0]}x{image[1]}"
        if size is None:
            raise InputError("task detect: the model's input has no fixed size; say detect:size=HEIGHTxWIDTH")
        return self.completed(head=head, logits=outputs.logits, boxes=outputs.boxes, score=score, size=size)

    @property
    def head(self) -> Head:
        """The kind of head, once it is known."""
        head: Head = self.known("head")
        return head

    def detections(self, outputs: Arrays) -> list[Detections]:
        """Returns the detections on every image of a batch."""
        height, width = map(int, self.known("size").split("x"))
        return detections(self.head, outputs[self.known("logits")], outputs[self.known("boxes")], (height, width))

    def signals(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the floating-point outputs; of an end-to-end head its boxes times their scores, [b, detections, 4].

        Its rows are in the order of their scores, so those of no account, the most, change places by the last bit of
        float32; numbers of classes have no distance.
        """
        signals = super().signals(outputs)
        if self.head == "end2end":
            rows = signals[self.known("boxes")]
            signals[self.known("boxes")] = rows[..., :4] * rows[..., 4:5]
        return signals

    def agreement(self, reference: Arrays, other: Arrays) -> float:
        """Returns the share of both models' detections above the score that the other has too: of the same class, at
        an IoU of 0.5 or more (the F1 of one against the other). 1 where neither finds anything."""
        counts = np.zeros(2, np.int64)
        for exact, ours in zip(self.detections(reference), self.detections(other), strict=True):
            counts += self.matches(exact, ours)
        return _share(counts)

    def matches(self, exact: Detections, ours: Detections) -> tuple[int, int]:
        """Returns (detections of both models on an image that have their match, all of them)."""
        exact, ours = (each.above(self.known("score")) for each in (exact, ours))
        return 2 * matched(exact, ours), len(exact) + len(ours)

    def views(self, outputs: Arrays) -> list[View]:
        """Returns the detections above the score on each image."""
        return [detections.above(self.known("score")) for detections in self.detections(outputs)]

    def tally(self, labels: Labels | None) -> Tally:
        """Counts matches with float's detections; with boxes COCO's average precision.

        Raises:
            InputError: there are labels, and pycocotools is missing.
        """
        assert labels is None or isinstance(labels, BoxLabels)
        if labels is not None:
            require_pycocotools()
        return _DetectTally(self, labels)

    def classes(self, outputs: Arrays, labels: BoxLabels) -> int:
        """Returns how many classes the model tells apart: by its outputs, the option, or the categories of the
        labels."""
        by_shape = classes_of(self.head, outputs[self.known("logits")].shape)
        return by_shape or self.options.classes or len(labels.category_ids)

    def at_place(self, outputs: Outputs, metric: str, numbers: Sequence[int]) -> Tensor:
        """Returns the logit of a class at a query, or a YOLO head's score at an anchor."""
        if self.head == "end2end":
            raise InputError(
                f"metric {metric!r}: an end-to-end head gives no scores of single queries, only those of the best "
                "detections; choose output-change"
            )
        logits, (query, number) = outputs[self.known("logits")], numbers
        if self.head == "yolo":
            logits = logits[:, 4:].swapaxes(1, 2)
        in_range(metric, "query", query, logits.shape[1])
        in_range(metric, "class", number, logits.shape[2])
        return logits[:, query, number]

    def place_text(self, numbers: Sequence[int]) -> str:
        """Says `the logit of class 3 at query 5`."""
        query, number = numbers
        return f"the logit of class {number} at query {query}"


class _DetectTally(Tally):
    def __init__(self, task: Detect, labels: BoxLabels | None) -> None:
        self._task, self._labels = task, labels
        self._matched = np.zeros(2, np.int64)
        self._compared, self._classes = False, 0
        self._detections: tuple[list[Detections], list[Detections]] = ([], [])

    def add(self, outputs: Arrays, reference: Arrays | None, place: slice) -> None:
        detections = [self._task.detections(each) for each in (outputs, reference) if each is not None]
        if reference is not None:
            self._compared = True
            for ours, exact in zip(*detections, strict=True):
                self._matched += self._task.matches(exact, ours)
        if self._labels is not None:
            self._classes = self._task.classes(outputs, self._labels)
            categories_of_classes(self._labels.category_ids, self._classes)  # before all images are run
            largest = max((int(each.classes.max()) for some in detections for each in some if len(each)), default=0)
            if largest >= self._classes:
                raise InputError(
                    f"task detect: the model finds class {largest}, and the labels have {self._classes} categories; "
                    "say how many it tells apart with detect:classes=N"
                )
            for earlier, new in zip(self._detections, detections, strict=False):
                earlier.extend(new)

    def by_labels(self) -> list[Figure]:
        if self._labels is None:
            return []
        categories = categories_of_classes(self._labels.category_ids, self._classes)
        truth = list(self._labels)
        ours, exact = (average_precision(f, truth, categories) if f else (None,) * 3 for f in self._detections)
        return [
            share(name, key, value, of_float)
            for name, key, value, of_float in zip(
                ("AP", "AP50", "AP75"), ("ap", "ap50", "ap75"), ours, exact, strict=True
            )
            if value is not None
        ]

    def to_float(self) -> list[Figure]:
        if not self._compared:
            return []
        same, count = _share(self._matched), int(self._matched[1])
        note = f"(score {self._task.options.score:g}, {count} of both)"
        return [Figure(AGREEMENT, "detections as in float", same, note=note)]


def _require_anchors_last(output: Output) -> None:
    rows, columns = output.shape[1:]
    if isinstance(rows, int) and isinstance(columns, int) and rows > columns:
        raise InputError(
            f"task detect: output {output.name!r} {list(output.shape)} has more rows than columns; say "
            "detect:head=yolo if these are [batch, 4 + classes, anchors], other heads of one output are not read"
        )


def _share(counts: np.ndarray) -> float:
    return float(counts[0] / counts[1]) if counts[1] else 1.0


DETECT = Detect(DetectOptions())
