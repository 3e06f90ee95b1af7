"""COCO as it lies on disk, and its pictures as the detectors take them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from qvit_deploy.data.folder import list_folder
from qvit_deploy.data.pictures import decode
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError

LONG, SHORT = 1333, 800
"""Sides that a picture is scaled to fit, as in mmdetection."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_PADDING = np.rint(MEAN).astype(np.uint8)  # mmdetection pads with zeros after it has subtracted the mean


@dataclass(frozen=True)
class Picture:
    """One image of the validation set, by its id in the annotations."""

    id: int
    path: Path


@dataclass(frozen=True)
class Coco:
    """The data set at `root`.

    Attributes:
        categories: ids in ascending order; a model's class is the index here.
        digest: of the annotations.
    """

    annotations: Path
    pictures: tuple[Picture, ...]
    train: tuple[Path, ...]
    categories: tuple[int, ...]
    digest: str

    @classmethod
    def at(cls, root: Path) -> Coco:
        """Opens `annotations/instances_val2017.json`, `val2017/` and `train2017/`. Raises InputError."""
        annotations = root / "annotations" / "instances_val2017.json"
        try:
            content = annotations.read_bytes()
            tree = json.loads(content)
            categories = tuple(sorted(int(category["id"]) for category in tree["categories"]))
            named = [(int(image["id"]), str(image["file_name"])) for image in tree["images"]]
            has_masks = all("segmentation" in each and "image_id" in each for each in tree["annotations"])
        except OSError as error:
            raise InputError(f"{annotations} cannot be read: {error.strerror}; COCO needs it") from None
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{annotations} does not hold COCO's categories, images and annotations") from None
        if not (named and categories and has_masks):
            raise InputError(f"{annotations} has no images, no categories, or annotations without masks")
        pictures = tuple(Picture(number, root / "val2017" / name) for number, name in sorted(named))
        if missing := [picture.path for picture in pictures if not picture.path.is_file()]:
            raise InputError(f"{missing[0]} does not exist, and {annotations.name} names it ({len(missing)} in all)")
        if not (root / "train2017").is_dir():
            raise InputError(f"there is no folder {root / 'train2017'}; COCO needs it with images to calibrate on")
        listing = list_folder(root / "train2017")
        return cls(annotations, pictures, tuple(listing.paths), categories, hashlib.sha256(content).hexdigest()[:16])


def preprocess(canvas: tuple[int, int]) -> Preprocess:
    """Returns what makes a canvas the input of a detector: colours less their mean, by their deviation."""
    return Preprocess(
        input_size=(3, *canvas), mean=tuple(m / 255 for m in MEAN), std=tuple(s / 255 for s in STD),
        interpolation="bilinear",
    )  # fmt: skip


def on_canvas(path: Path, canvas: tuple[int, int]) -> tuple[NDArray[np.uint8], tuple[int, int], tuple[int, int]]:
    """Scales a picture to the top left corner of a canvas.

    Bilinear, without smoothing, as OpenCV scales it in mmdetection. A picture whose long side is 1333 or whose short
    side is 800 pixels then is made smaller still if the canvas is.

    Returns:
        The canvas, uint8 [H, W, 3], and (height, width) of the picture on it and in its file.

    Raises:
        BadPictureError: (an InputError) it cannot be read.
    """
    pixels = decode(path)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, 2)
    size = (pixels.shape[0], pixels.shape[1])
    scale = min(LONG / max(size), SHORT / min(size), canvas[0] / size[0], canvas[1] / size[1])
    inside = tuple(max(1, min(int(side * scale + 0.5), most)) for side, most in zip(size, canvas, strict=True))
    planes: Any = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    scaled = interpolate(planes, inside, mode="bilinear", align_corners=False)[0].permute(1, 2, 0).numpy()
    result = np.empty((*canvas, 3), np.uint8)
    result[:] = _PADDING
    result[: inside[0], : inside[1]] = np.rint(scaled)
    return result, (inside[0], inside[1]), size
