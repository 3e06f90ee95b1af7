"""Boxes from a JSON file in COCO's format for detection (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt

from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.window import Window
from qvit_deploy.errors import InputError
from qvit_deploy.validation import read_json, validated

MAX_BYTES = 2**30
"""Largest JSON file that is read: twice COCO's training set."""

_Length = Annotated[FiniteFloat, Field(ge=0)]


class _Part(BaseModel):
    """A part of the file; fields that detection does not need (licences, polygons, captions) are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Picture(_Part):
    id: int
    file_name: str


class _Category(_Part):
    id: NonNegativeInt
    name: str


class _Annotation(_Part):
    image_id: int
    category_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, _Length, _Length]
    area: _Length | None = None
    iscrowd: Annotated[int, Field(ge=0, le=1)] = 0


class _File(_Part):
    images: tuple[_Picture, ...]
    categories: tuple[_Category, ...]
    annotations: tuple[_Annotation, ...]


@dataclass(frozen=True, eq=False)
class ImageBoxes:
    """What is on one picture.

    Attributes:
        boxes: float64 [n, 4], (left, top, width, height) in pixels of the picture.
        categories: int64 [n], the file's category ids.
        areas: float64 [n], pixels; COCO sorts objects into small, medium and large ones by them.
        crowd: bool [n], boxes around many objects, which neither count nor are counted against a model.
        size: (height, width) of the picture.
        window: the part of it that the model sees.
    """

    boxes: NDArray[np.float64]
    categories: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    size: tuple[int, int]
    window: Window


@dataclass(frozen=True, eq=False)
class BoxLabels(Sequence[ImageBoxes]):
    """The boxes of every picture of a set; `category_ids` int64 [K] is sorted."""

    images: ImageSet
    category_ids: NDArray[np.int64]
    by_picture: tuple[tuple[_Annotation, ...], ...]

    def __len__(self) -> int:
        return len(self.by_picture)

    def __getitem__(self, i: Any) -> Any:
        """Returns what is on picture `i`. Raises BadPictureError when the picture is gone."""
        annotations, size = self.by_picture[i], self.images.size(i)
        return ImageBoxes(
            boxes=np.array([a.bbox for a in annotations], np.float64).reshape(-1, 4),
            categories=np.array([a.category_id for a in annotations], np.int64),
            areas=np.array([a.bbox[2] * a.bbox[3] if a.area is None else a.area for a in annotations], np.float64),
            crowd=np.array([a.iscrowd for a in annotations], bool),
            size=size,
            window=self.images.preprocess.window(*size),
        )


def coco_boxes(path: Path, images: ImageSet) -> BoxLabels:
    """Reads a COCO file and finds the pictures of `images` in it, by their path in DATA or by their bare file name.

    Raises:
        InputError: the file is not such a JSON file or too large, contradicts itself, or lacks a picture.
    """
    name = f"labels {path}"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from None
    if size > MAX_BYTES:
        raise InputError(f"{name}: {size / 1e9:.1f} GB is more than any COCO file has ({MAX_BYTES / 1e9:.1f} GB)")
    file = validated(_File, read_json(path, name), name)
    categories = _unique([c.id for c in file.categories], f"{name}: category")
    pictures = _unique([p.id for p in file.images], f"{name}: image")
    annotations: dict[int, list[_Annotation]] = {identity: [] for identity in pictures}
    for i, annotation in enumerate(file.annotations):
        if annotation.image_id not in pictures or annotation.category_id not in categories:
            what = "picture" if annotation.image_id not in pictures else "category"
            raise InputError(f"{name}: annotations.{i} is of a {what} that the file does not list")
        annotations[annotation.image_id].append(annotation)
    by_path = {p.file_name: p.id for p in file.images}
    by_name = {PurePosixPath(p.file_name).name: p.id for p in file.images}
    known = [by_path.get(n, by_name.get(PurePosixPath(n).name)) for n in images.names]
    if missing := [n for n, identity in zip(images.names, known, strict=True) if identity is None]:
        raise InputError(f"{name}: {len(missing)} of {len(images)} pictures are not in it, the first is {missing[0]}")
    by_picture = tuple(tuple(annotations[identity]) for identity in known if identity is not None)
    return BoxLabels(images, np.array(sorted(categories), np.int64), by_picture)


def _unique(ids: Sequence[int], what: str) -> set[int]:
    known = set(ids)
    if len(known) < len(ids):
        raise InputError(f"{what} ids are given twice")
    if not known:
        raise InputError(f"{what} list is empty")
    return known
