"""Segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from qvit_deploy.data.labels.maps import LabelMap, LabelMaps
from qvit_deploy.data.labels.opening import Labels
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface, Output
from qvit_deploy.tasks.configured import chosen_output, picture_size, shape_text
from qvit_deploy.tasks.placed import PlacedTask, in_range
from qvit_deploy.tasks.planes import interpolated
from qvit_deploy.tasks.scores.confusion import confusion, mean_iou, pixel_accuracy
from qvit_deploy.tasks.tally import AGREEMENT, Figure, Tally, share
from qvit_deploy.tasks.task import Arrays, Outputs, Task, Words
from qvit_deploy.tasks.views import ClassMap, View
from qvit_deploy.validation import Record

if TYPE_CHECKING:
    from torch import Tensor

    from qvit_deploy.tasks.task import Array


class SegmentOptions(Record):
    """What `segment` has to know of a model and of its labels."""

    output: str | None = Field(default=None, description="the output that has the classes")
    axis: int | None = Field(default=None, description="the axis of classes: 1 or 3; 0 for a binary output")
    threshold: float = Field(default=0.0, description="above it a pixel of a binary output is of class 1")
    first: int = Field(default=0, ge=0, description="the number that labels have for the model's class 0")
    ignore: int = Field(default=255, ge=0, description="the number of pixels in labels that do not count")

    @field_validator("axis")
    @classmethod
    def _axis_exists(cls, axis: int | None) -> int | None:
        if axis not in (None, 0, 1, 3):
            raise ValueError("is 1 for [batch, classes, h, w], 3 for [batch, h, w, classes], 0 for a binary output")
        return axis


class Segment(PlacedTask[SegmentOptions]):
    """One output has a score for every class and pixel: [batch, classes, h, w] or [batch, h, w, classes]; of two
    classes perhaps one score alone, [batch, 1, h, w] or [batch, h, w]."""

    name = "segment"
    words = Words(score="mIoU", same="class", signal="outputs", answer="class", answers="classes", counted="pixels")
    labels = "maps"
    place = "pixel"
    coordinates = (("ROW", "COL", "CLASS"),)

    def for_model(self, interface: Interface) -> Task:
        """Finds the output and its axis of classes.

        Raises:
            InputError: no output or several are maps, or the axis of classes is not plain from its shape.
        """
        super().for_model(interface)
        ranks = {4: "of maps [batch, classes, h, w] or [batch, h, w, classes]", 3: "of maps [batch, h, w]"}
        output = chosen_output(self.name, interface, self.options.output, ranks)
        axis = _class_axis(output, interface) if self.options.axis is None else self.options.axis
        if axis and len(output.shape) != 4:
            raise InputError(f"task segment: output {output.name!r} {shape_text(output)} has no axis {axis} of classes")
        return self.completed(output=output.name, axis=axis)

    def scores(self, outputs: Mapping[str, Array]) -> Array:
        """Returns the scores with the classes in front, [batch, classes, h, w]; one channel for a binary output."""
        value, axis = outputs[self.known("output")], self.known("axis")
        if value.ndim == 3:
            return value[:, None]
        one_last = axis == 0 and value.shape[1] != 1  # [batch, h, w, 1]
        return value.swapaxes(2, 3).swapaxes(1, 2) if axis == 3 or one_last else value

    def classes(self, scores: NDArray[Any]) -> NDArray[np.int64]:
        """Returns the class of every pixel of [..., classes, h, w], int64 [..., h, w]."""
        if scores.shape[-3] == 1:
            return (scores[..., 0, :, :] > self.options.threshold).astype(np.int64)
        return scores.argmax(-3).astype(np.int64)

    def agreement(self, reference: Arrays, other: Arrays) -> float:
        """Returns the share of pixels with the same class."""
        return float((self.classes(self.scores(reference)) == self.classes(self.scores(other))).mean())

    def views(self, outputs: Arrays) -> list[View]:
        """Returns the class of every pixel of each image."""
        return [ClassMap(classes) for classes in self.classes(self.scores(outputs))]

    def tally(self, labels: Labels | None) -> Tally:
        """Counts pixels with the float model's class; with label maps those by label and class."""
        assert labels is None or isinstance(labels, LabelMaps)
        return _SegmentTally(self, labels)

    def confusion(self, scores: NDArray[Any], label: LabelMap) -> NDArray[np.int64]:
        """Counts the pixels of a label map by (label, predicted class), the scores [classes, h, w] resized to it.

        Raises:
            InputError: a label is of no class of the model.
        """
        resized, truth = interpolated(scores, label)
        count = max(2, len(scores))
        if truth.dtype.kind == "f":
            raise InputError(f"task segment: the label map of {label.name} holds {truth.dtype}, not whole numbers")
        known = truth != self.options.ignore
        numbers = truth[known].astype(np.int64) - self.options.first
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < count:
            wrong = numbers.min() if numbers.min() < 0 else numbers.max()
            raise InputError(
                f"task segment: the label map of {label.name} has the number {wrong + self.options.first}, the model "
                f"has {count} classes from {self.options.first} on and {self.options.ignore} is ignored; other numbers "
                "are given as segment:first=N,ignore=N"
            )
        return confusion(self.classes(resized)[known], numbers, count)

    def at_place(self, outputs: Outputs, metric: str, numbers: Sequence[int]) -> Tensor:
        """Returns the score of a class at a pixel of the output."""
        scores, (row, column, number) = self.scores(outputs), numbers
        in_range(metric, "row", row, scores.shape[2])
        in_range(metric, "column", column, scores.shape[3])
        in_range(metric, "class", number, max(2, scores.shape[1]))
        if scores.shape[1] == 1:  # one score for class 1, and its negative for class 0
            return scores[:, 0, row, column] * (1 if number else -1)
        return scores[:, number, row, column]

    def place_text(self, numbers: Sequence[int]) -> str:
        """Says `the score of class 1 at row 3, column 5`."""
        row, column, number = numbers
        return f"the score of class {number} at row {row}, column {column}"


def _class_axis(output: Output, interface: Interface) -> int:
    """Returns 1 or 3, the axis of classes of maps, or 0 where one score says which of two classes a pixel is of.

    The other two axes have the shape of the picture: it decides where the sizes leave it open.
    """
    shape = output.shape
    if len(shape) == 3 or shape[1] == 1 or shape[3] == 1:
        return 0
    known = [axis for axis in (1, 2, 3) if isinstance(shape[axis], int)]
    if known in ([1], [3]):  # the height and the width are open
        return known[0]
    height, width = picture_size(interface) or (0, 0)
    fitting = [
        axis for axis, (h, w) in ((1, (shape[2], shape[3])), (3, (shape[1], shape[2])))
        if isinstance(h, int) and isinstance(w, int) and height and abs(h * width - w * height) <= max(height, width)
    ]  # fmt: skip
    if len(fitting) == 1:
        return fitting[0]
    raise InputError(
        f"task segment: the shape of output {output.name!r}, {shape_text(output)}, does not tell where the classes are "
        "counted; say segment:axis=1 or segment:axis=3"
    )


class _SegmentTally(Tally):
    def __init__(self, task: Segment, labels: LabelMaps | None) -> None:
        self._task, self._labels = task, labels
        self._same = self._pixels = 0
        self._counts: list[NDArray[np.int64] | None] = [None, None]

    def add(self, outputs: Arrays, reference: Arrays | None, place: slice) -> None:
        scores = [self._task.scores(each) for each in (outputs, reference) if each is not None]
        if reference is not None:
            same = self._task.classes(scores[0]) == self._task.classes(scores[1])
            self._same, self._pixels = self._same + int(same.sum()), self._pixels + same.size
        if self._labels is None:
            return
        for offset in range(len(scores[0])):
            label = self._labels[place.start + offset]
            for model, of_model in enumerate(scores):
                counts, before = self._task.confusion(of_model[offset], label), self._counts[model]
                self._counts[model] = counts if before is None else before + counts

    def by_labels(self) -> list[Figure]:
        ours, exact = self._counts
        if ours is None:
            return []
        return [
            share("mIoU", "mean_iou", mean_iou(ours), None if exact is None else mean_iou(exact)),
            share(
                "pixel accuracy",
                "pixel_accuracy",
                pixel_accuracy(ours),
                None if exact is None else pixel_accuracy(exact),
            ),
        ]

    def to_float(self) -> list[Figure]:
        if not self._pixels:
            return []
        same = self._same / self._pixels
        return [Figure(AGREEMENT, "pixels of the same class as in float", same, form="{:.2%}")]


SEGMENT = Segment(SegmentOptions())
