"""Opens what the command line calls LABELS for a set of pictures, or takes the labels that came with the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.data.example_set import ExampleSet
from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.labels.boxes import BoxLabels, coco_boxes
from qvit_deploy.data.labels.maps import LabelMaps, archive_maps, folder_maps
from qvit_deploy.errors import InputError

LabelKind = Literal["classes", "maps", "boxes"]

Labels: TypeAlias = NDArray[np.int64] | LabelMaps | BoxLabels
"""Classes int64 [n], maps or boxes: one entry for every picture of a set."""

NO_LABELS = "none"
"""What LABELS is called where those of DATA are to be left alone."""

_WANTED: dict[LabelKind, str] = {
    "classes": "a class for every image, which comes with DATA (folders of classes, or 'labels' [n] of an .npz)",
    "maps": "label maps: --labels FOLDER of PNG or TIFF files with the names of the images, or 'labels' [n, h, w] of "
    "an .npz",
    "boxes": "boxes: --labels FILE.json in COCO's format",
}


def open_labels(task: str, kind: LabelKind | None, spec: str | None, images: ExampleSet) -> Labels | None:
    """Returns the labels of `images` that a task takes; None without any.

    Args:
        task: its name, for messages.
        kind: what it takes; None where no labels say anything about its outputs.
        spec: LABELS of the command line; None for those that came with the images, "none" for no labels.

    Raises:
        InputError: there are labels, and they are not what the task takes; or they cannot be read or do not fit the
            images.
    """
    if spec == NO_LABELS:
        return None
    if spec is None:
        return _own(task, kind, images)
    if kind is None:
        raise InputError(f"task {task!r} has no score by labels; leave --labels out, or pass --task with one that has")
    path = Path(spec).expanduser()
    if not path.exists():
        raise InputError(f"no such labels: {spec[:200]}")
    if not isinstance(images, ImageSet):
        raise InputError(f"--labels {spec} are of pixels: with ready tensors, put labels of images into the .npz")
    if kind == "maps" and path.is_dir():
        return folder_maps(path, images)
    if kind == "maps" and path.suffix.lower() == ".npz":
        return archive_maps(path, "test", images)
    if kind == "boxes" and path.suffix.lower() == ".json" and path.is_file():
        return coco_boxes(path, images)
    raise InputError(f"task {task!r} takes {_WANTED[kind]}; {spec} is not that")


def own_kind(images: ExampleSet) -> LabelKind | None:
    """Returns which labels came with the images; None where none did."""
    has: dict[LabelKind, Any] = {"classes": images.labels, "maps": images.label_maps}
    return next((name for name, value in has.items() if value is not None), None)


def _own(task: str, kind: LabelKind | None, images: ExampleSet) -> Labels | None:
    given_kind = own_kind(images)
    if given_kind is None:
        return None
    if given_kind != kind:
        what = "a class for every image" if given_kind == "classes" else "label maps"
        wants = "has no score by labels" if kind is None else f"takes {_WANTED[kind]}"
        raise InputError(
            f"DATA has {what}, task {task!r} {wants}; pass another --task, or --labels none to leave labels out"
        )
    if images.label_maps is None:
        return images.labels
    if not isinstance(images, ImageSet):
        raise InputError("label maps need images that are prepared here, not ready tensors; pass --labels none")
    return archive_maps(images.label_maps, "test", images)
