"""Dense outputs: a number for every pixel (depth, saliency, a matte), or several (features)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from qvit_deploy.data.labels.maps import LabelMap, LabelMaps
from qvit_deploy.data.labels.opening import Labels
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface
from qvit_deploy.tasks.configured import chosen_output
from qvit_deploy.tasks.placed import PlacedTask, in_range
from qvit_deploy.tasks.planes import interpolated
from qvit_deploy.tasks.scores.dense import Align, aligned, depth_errors, iou, mask_counts
from qvit_deploy.tasks.tally import Figure, Tally, amount, share
from qvit_deploy.tasks.task import Arrays, Outputs, Task, Words
from qvit_deploy.tasks.views import Plane, View
from qvit_deploy.validation import Record

if TYPE_CHECKING:
    from torch import Tensor

    from qvit_deploy.tasks.task import Array


class DenseOptions(Record):
    """What `dense` has to know of a model and of its labels."""

    output: str | None = Field(default=None, description="the output that is meant")
    threshold: FiniteFloat | None = Field(default=None, description="above it a pixel is in the mask; makes it a mask")
    scale: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="labels are divided by it: 255 for 8-bit masks"
    )
    align: Align = Field(default="none", description="how a depth known up to a scale is brought to the labels'")
    inverse: bool = Field(default=False, description="the output is one over the depth")


class Dense(PlacedTask[DenseOptions]):
    """One output is [batch, h, w], [batch, 1, h, w], or has more channels.

    Its labels are depths, above 0 where there are any; or with a threshold a mask or a share for every pixel.
    """

    name = "dense"
    words = Words(
        score="delta1", same="side of the threshold", signal="outputs", answer="map", answers="maps", counted="pixels"
    )
    labels = "maps"
    place = "pixel"
    coordinates = (("ROW", "COL"), ("ROW", "COL", "CHANNEL"))

    def for_model(self, interface: Interface) -> Task:
        """Finds the output. Raises InputError: none is a map, or several are."""
        super().for_model(interface)
        ranks = {4: "of maps [batch, channels, h, w]", 3: "of maps [batch, h, w]"}
        return self.completed(output=chosen_output(self.name, interface, self.options.output, ranks).name)

    def maps(self, outputs: Mapping[str, Array]) -> Array:
        """Returns the maps [batch, channels, h, w]."""
        value = outputs[self.known("output")]
        return value[:, None] if value.ndim == 3 else value

    def agreement(self, reference: Arrays, other: Arrays) -> float | None:
        """Returns the share of pixels on the same side of the threshold; None without one."""
        threshold = self.options.threshold
        if threshold is None:
            return None
        return float(((self.maps(reference) > threshold) == (self.maps(other) > threshold)).mean())

    def views(self, outputs: Arrays) -> list[View]:
        """Returns the map of each image; of several channels the length of each pixel's vector."""
        return [Plane(maps[0] if len(maps) == 1 else np.linalg.norm(maps, axis=0)) for maps in self.maps(outputs)]

    def tally(self, labels: Labels | None) -> Tally:
        """Counts absolute differences; with label maps the errors of depths, or of masks with a threshold."""
        assert labels is None or isinstance(labels, LabelMaps)
        return _DenseTally(self, labels)

    def at_labels(self, maps: NDArray[Any], label: LabelMap) -> tuple[NDArray[Any], NDArray[Any]]:
        """Returns the output and the labels, float64 [pixels] each, at the pixels that the model sees and that have
        labels; a depth aligned and no longer inverse.

        Raises:
            InputError: the output has several channels, no pixel has a label, or a label is not finite.
        """
        if len(maps) != 1:
            raise InputError(
                f"task dense: output {self.options.output!r} has {len(maps)} channels, labels have one; without labels "
                "it is compared with float (--labels none)"
            )
        resized, numbers = interpolated(maps, label)
        truth = numbers.astype(np.float64).ravel() / self.options.scale
        values = resized.astype(np.float64).ravel()
        if not np.isfinite(truth).all():
            raise InputError(
                f"task dense: the labels of {label.name} hold NaN or infinity; where no depth is known it is 0"
            )
        if self.options.threshold is not None:
            return values, truth
        known = truth > 0
        if not known.any():
            raise InputError(f"task dense: the label map of {label.name} has no depth above 0 where the model looks")
        values, truth = values[known], truth[known]
        if not self.options.inverse:
            return aligned(values, truth, self.options.align), truth
        inverse = aligned(values, 1 / truth, self.options.align)
        return 1 / np.maximum(inverse, 1 / truth.max()), truth  # no depth beyond the labels' largest

    def at_place(self, outputs: Outputs, metric: str, numbers: Sequence[int]) -> Tensor:
        """Returns the output at a row and column; of several channels that of one, which is then named."""
        maps, (row, column, *channel) = self.maps(outputs), numbers
        in_range(metric, "row", row, maps.shape[2])
        in_range(metric, "column", column, maps.shape[3])
        if not channel and maps.shape[1] > 1:
            raise InputError(f"metric {metric!r}: of {maps.shape[1]} channels name one, pixel:ROW,COL,CHANNEL")
        in_range(metric, "channel", (chosen := channel[0] if channel else 0), maps.shape[1])
        return maps[:, chosen, row, column]

    def place_text(self, numbers: Sequence[int]) -> str:
        """Says `the output at row 3, column 5`."""
        row, column, *channel = numbers
        return f"the output at row {row}, column {column}" + (f", channel {channel[0]}" if channel else "")


class _DenseTally(Tally):
    def __init__(self, task: Dense, labels: LabelMaps | None) -> None:
        self._task, self._labels = task, labels
        self._difference = self._magnitude = 0.0
        self._masks = np.zeros(2, np.int64)
        # Of the model and of the float model: (errors of each image or the absolute error alone, mask counts).
        self._errors: tuple[list[tuple[float, ...]], list[tuple[float, ...]]] = ([], [])
        self._counts = np.zeros((2, 2), np.int64)

    def add(self, outputs: Arrays, reference: Arrays | None, place: slice) -> None:
        maps = [self._task.maps(each) for each in (outputs, reference) if each is not None]
        threshold = self._task.options.threshold
        if reference is not None:
            self._difference += float(np.abs(maps[0].astype(np.float64) - maps[1]).sum())
            self._magnitude += float(np.abs(maps[1], dtype=np.float64).sum())
            if threshold is not None:
                self._masks += mask_counts(maps[0] > threshold, maps[1] > threshold)
        if self._labels is None:
            return
        for offset in range(len(maps[0])):
            label = self._labels[place.start + offset]
            for model, of_model in enumerate(maps):
                values, truth = self._task.at_labels(of_model[offset], label)
                if threshold is None:
                    self._errors[model].append(depth_errors(values, truth))
                else:
                    self._errors[model].append((float(np.abs(values - truth).mean()),))
                    self._counts[model] += mask_counts(values > threshold, truth > threshold)

    def by_labels(self) -> list[Figure]:
        if self._labels is None:
            return []
        means = [np.mean(errors, axis=0).tolist() if errors else None for errors in self._errors]
        ours, exact = means
        assert ours is not None
        if self._task.options.threshold is not None:
            of_float = None if exact is None else iou(self._counts[1])
            return [
                share("IoU", "iou", iou(self._counts[0]), of_float),
                amount("MAE", "mae", ours[0], None if exact is None else exact[0]),
            ]
        abs_rel, delta1, mae = zip(ours, exact or (None, None, None), strict=True)
        return [
            amount("absRel", "abs_rel", *abs_rel),
            share("delta1", "delta1", *delta1),
            amount("MAE", "mae", *mae),
        ]

    def to_float(self) -> list[Figure]:
        if not self._magnitude:
            return []
        relative = self._difference / self._magnitude
        figures = [Figure("mae_relative", "MAE to float", relative, form="{:.2%}", note="of the mean magnitude")]
        if self._task.options.threshold is not None:
            figures.append(Figure("iou_to_float", "IoU with float's mask", iou(self._masks), form="{:.2%}"))
        return figures


DENSE = Dense(DenseOptions())
