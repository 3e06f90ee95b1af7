"""Decodes one picture from disk to a uint8 array and turns every way it can be unusable into a named reason.

A picture is uint8, [H, W] for grey or [H, W, 3] for RGB, whatever the file held. Pillow is imported only here
and only when needed: arrays of the right size never need it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

Read = TypeVar("Read")

# Pillow's own warning level (a quarter gigabyte of RGB). Pillow only warns here and raises at twice this; a
# compile that runs unattended has nobody to read the warning.
MAX_PIXELS = 89_478_485

# Never "any format Pillow knows": its EPS reader, for one, starts Ghostscript on the file.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm"})


class BadPictureError(InputError):
    """A picture that cannot be used; `reason` is the part of the message that does not repeat its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"image {name} cannot be used: {reason}")
        self.reason = reason


def require_pillow() -> ModuleType:
    """Returns `PIL.Image`. Raises InputError that says how to install it."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "decoding or resizing images needs Pillow: pip install pillow "
            "(an .npz whose images already have the model's input size needs no Pillow)"
        ) from None
    return Image


def check_header(path: Path) -> None:
    """Finds files that are no image at all or too large, without decoding. Raises BadPictureError."""
    size_of(path)


def size_of(path: Path) -> tuple[int, int]:
    """Returns (height, width) of the image file `path`, without decoding it. Raises BadPictureError."""
    return read_picture(path, lambda image: (image.height, image.width))


def decode(path: Path) -> NDArray[np.uint8]:
    """Decodes the first frame of the image file `path`: uint8 [H, W] or [H, W, 3]. Raises BadPictureError."""
    return read_picture(path, as_array)


def read_picture(path: Path, read: Callable[[Image.Image], Read]) -> Read:
    """Returns what `read` makes of the first frame of the image file `path`. Raises BadPictureError."""
    pil = require_pillow()
    try:
        if path.stat().st_size == 0:
            raise BadPictureError(str(path), "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata, of no interest here
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            with pil.open(path, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise pil.DecompressionBombError
                return read(image)
    except BadPictureError:
        raise
    except InputError as error:
        raise BadPictureError(str(path), str(error)) from None
    except pil.UnidentifiedImageError:
        raise BadPictureError(str(path), "not a JPEG, PNG, BMP, WebP, TIFF, GIF or PPM file") from None
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise BadPictureError(str(path), f"decompression bomb: more than {MAX_PIXELS // 10**6} megapixels") from None
    except FileNotFoundError:
        raise BadPictureError(str(path), "the file is gone") from None
    except PermissionError:
        raise BadPictureError(str(path), "no permission to read it") from None
    except Exception as error:  # on broken bytes decoders raise anything: SyntaxError, IndexError, ...
        detail = " ".join(str(error).split()) or type(error).__name__
        raise BadPictureError(str(path), f"corrupt or truncated ({detail})") from None


def as_array(image: Image.Image) -> NDArray[np.uint8]:
    """Converts a PIL image to uint8 [H, W] (grey) or [H, W, 3] (RGB); alpha is dropped, as timm's loader does.

    EXIF orientation is not applied, as in timm: the models were trained and measured without it. 16-bit
    grey is scaled to 8 bits (65535 / 257 = 255).

    Raises:
        InputError: the mode has no known range of values (32-bit integers, float).
    """
    if image.mode.startswith("I;16"):
        return np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
    if image.mode in ("I", "F"):
        raise InputError(f"pixels of mode {image.mode!r} have no known range; save the image with 8 bits per channel")
    grey = image.mode in ("1", "L", "LA", "La")
    return np.array(image.convert("L" if grey else "RGB"))
