"""Label maps: for every picture a plane of numbers, one per pixel, which are classes, depths or shares.

They come from strangers as pictures do: sizes are checked before anything is decoded, nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.npz import Split, element_index, read_label_maps
from qvit_deploy.data.pictures import BadPictureError, read_picture
from qvit_deploy.data.window import Window
from qvit_deploy.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".tif", ".tiff")
"""Files that keep every number as it was written; JPEG does not."""

_PLAIN_MODES = ("1", "L", "P", "I", "F")


@dataclass(frozen=True, eq=False)
class LabelMap:
    """The labels of one picture: `values` [H, W], integers or floats as stored, and where the model sees them.

    `name` is the picture's, for messages.
    """

    values: NDArray[Any]
    window: Window
    name: str


@dataclass(frozen=True, eq=False)
class LabelMaps(Sequence[LabelMap]):
    """One label map for every picture of a set, read when asked for.

    A map may be smaller or larger than its picture, but has its shape.
    """

    images: ImageSet
    maps: Mapping[str, Path] | NDArray[Any]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        """Returns the map of picture `i`.

        Raises:
            InputError: its file cannot be read, or has not the shape of the picture.
        """
        name = self.images.names[i]
        values = read_map(self.maps[name]) if isinstance(self.maps, Mapping) else self.maps[element_index(name)]
        size = self.images.size(i)
        (height, width), (picture_height, picture_width) = values.shape, size
        if abs(height * picture_width - width * picture_height) > max(size):
            raise InputError(
                f"the label map of {name} is {width}x{height}, which is not the shape of the picture, "
                f"{picture_width}x{picture_height}"
            )
        return LabelMap(values, self.images.preprocess.window(*size), name)


def folder_maps(root: Path, images: ImageSet) -> LabelMaps:
    """Finds for every picture `a/b.jpg` the map `a/b.png` of the folder `root` (.tif too), or `b.png`.

    Raises:
        InputError: a picture has no map; names the first.
    """
    files: dict[str, Path] = {}
    for name in images.names:
        stem = Path(name).with_suffix("")
        places = (root / f"{s}{suffix}" for s in dict.fromkeys((stem.as_posix(), stem.name)) for suffix in SUFFIXES)
        if (path := next((p for p in places if p.is_file()), None)) is not None:
            files[name] = path
    missing = [name for name in images.names if name not in files]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(images)} pictures have no label map in {root}: {missing[0]} should have "
            f"{Path(missing[0]).with_suffix(SUFFIXES[0])}"
        )
    return LabelMaps(images, files)


def archive_maps(path: Path, split: Split, images: ImageSet) -> LabelMaps:
    """Reads `{split}_labels` or `labels` [n, H, W] of an archive, in the order of an archive's images.

    Raises:
        InputError: there are no such labels, or not as many as pictures, or the pictures are files.
    """
    labels = read_label_maps(path, split)
    if isinstance(images.pictures, tuple):
        raise InputError(f"the label maps of {path} have no names: give a folder of them for a folder of pictures")
    last = max(element_index(name) for name in images.names)
    if last >= len(labels):
        raise InputError(f"{path} has {len(labels)} label maps, too few for {images.names[-1]}")
    return LabelMaps(images, labels)


def read_map(path: Path) -> NDArray[Any]:
    """Reads a label map from an image file: numbers as stored, those of a palette for its colours; [H, W].

    Raises:
        BadPictureError: (an InputError) it is no image, too large, corrupt, or has several channels.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise BadPictureError(str(path), f"label maps are {', '.join(SUFFIXES)}")
    return read_picture(path, _numbers)


def _numbers(image: Image.Image) -> NDArray[Any]:
    if image.mode not in _PLAIN_MODES and not image.mode.startswith("I;16"):
        raise InputError(f"a label map has one number per pixel (grey or a palette), this has the mode {image.mode!r}")
    values = np.asarray(image)
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
