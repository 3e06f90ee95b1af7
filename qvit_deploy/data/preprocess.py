"""Turns a picture into the float tensor a model expects: timm's evaluation transform without its roundings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat, PositiveInt, model_validator

from qvit_deploy.data.pictures import MAX_PIXELS, as_array, require_pillow
from qvit_deploy.data.window import Window
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Input
from qvit_deploy.validation import Record, read_json, validated

if TYPE_CHECKING:
    from PIL import Image

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, the weights of Pillow's mode "L"

_PositiveFinite = Annotated[FiniteFloat, Field(gt=0)]


class Preprocess(Record):
    """How a picture becomes the model's input.

    `input_size` is (C, H, W). `mean` and `std` are per channel (or one value for all) and apply to values in
    [0, 1]. `crop_pct` is the share of the resized picture that the centre crop keeps. `color` "grey" takes
    the luma of a coloured picture first and repeats it to C channels; "rgb" (C = 3) repeats a grey picture to
    three.
    """

    input_size: tuple[PositiveInt, PositiveInt, PositiveInt]
    mean: tuple[FiniteFloat, ...]
    std: tuple[_PositiveFinite, ...]
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos"] = "bicubic"
    crop_pct: float = Field(default=1.0, ge=0.01, le=1)
    color: Literal["rgb", "grey"] = "rgb"

    @model_validator(mode="after")
    def _channels_agree(self) -> Preprocess:
        channels = self.input_size[0]
        for field in ("mean", "std"):
            if len(getattr(self, field)) not in (1, channels):
                raise ValueError(f"{field} needs 1 or {channels} values, as input_size has {channels} channels")
        if self.color == "rgb" and channels != 3:
            raise ValueError(f'color "rgb" needs 3 channels, input_size has {channels}; use color "grey"')
        return self

    @classmethod
    def from_file(cls, path: str | Path) -> Preprocess:
        """Reads a JSON file with this class's fields. Raises InputError."""
        name = f"preprocess file {path}"
        return validated(cls, read_json(Path(path), name), name)

    def taken_by(self, image: Input) -> Preprocess:
        """Returns how pictures become this input: `self`, or a `PixelPreprocess` where it takes pixels."""
        return PixelPreprocess(**dict(self)) if image.dtype == ir.DataType.UINT8 else self

    def apply(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[Any]:
        """Resizes, crops, scales to [0, 1] and normalises; returns the input of the model, float32 [C, H, W].

        Resizing runs in float on each channel, so nothing is rounded to 8 bits in between; bicubic and lanczos
        overshoot, hence the clamp.

        Args:
            image: a PIL image, or a uint8 array [H, W] or [H, W, 3].

        Raises:
            InputError: the array has another type or shape, or is a strip too thin to resize.
        """
        return self.normalized(self._cropped(image))

    def normalized(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Scales pixels [..., C, H, W] of 0 to 255 to [0, 1] and normalises them; one plane serves all C channels."""
        unit = np.clip(pixels.astype(np.float32) / np.float32(255), 0, 1)
        mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.mean, self.std))
        shape = (*pixels.shape[:-3], *self.input_size)
        return np.array(np.broadcast_to((unit - mean) / std, shape), dtype=np.float32, order="C")

    def _cropped(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns the part of a picture that the model sees, resized, float32 [C or 1, H, W] of about 0 to 255."""
        picture = image if isinstance(image, np.ndarray) else as_array(image)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] != 3):
            raise InputError(f"an image must be uint8 [H, W] or [H, W, 3], got {picture.dtype} {list(picture.shape)}")
        _, height, width = self.input_size
        top, left = self._corner(*self.resized_size(*picture.shape[:2]))
        planes = picture.astype(np.float32)
        if self.color == "grey" and planes.ndim == 3:
            planes = planes @ _LUMA
        planes = planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1)

        return self._resize(planes)[:, top : top + height, left : left + width]

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) of a picture between resize and crop; never below the input size.

        A square target scales the shorter side (torchvision `Resize(int)`), any other one keeps the ratio and
        covers the target (timm `ResizeKeepRatio`).

        Raises:
            InputError: the picture is a strip so thin that its resized form is enormous.
        """
        target_h, target_w = (math.floor(side / self.crop_pct) for side in self.input_size[1:])
        if target_h == target_w:
            short, long = sorted((height, width))
            scaled = int(target_h * long / short)
            size = (target_h, scaled) if height <= width else (scaled, target_h)
        else:
            ratio = min(height / target_h, width / target_w)
            size = (round(height / ratio), round(width / ratio))
        if size[0] * size[1] > MAX_PIXELS:
            raise InputError(f"a {width}x{height} image would be resized to {size[1]}x{size[0]}; crop it first")
        return size

    def window(self, height: int, width: int) -> Window:
        """Returns the part of a picture of this size that the model sees. Raises InputError, as `resized_size`."""
        resized = self.resized_size(height, width)
        top, left = self._corner(*resized)
        bottom, right = top + self.input_size[1], left + self.input_size[2]
        return Window(top / resized[0], left / resized[1], bottom / resized[0], right / resized[1])

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Returns (top, left) of the crop in a resized picture."""
        # torchvision's CenterCrop rounds halves to even; so does Python's round.
        return round((height - self.input_size[1]) / 2), round((width - self.input_size[2]) / 2)

    def _resize(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resizes `planes`, float32 [P, h, w]; returns them as they are, without Pillow, if they fit already."""
        size = self.resized_size(planes.shape[1], planes.shape[2])
        if size == planes.shape[1:]:
            return planes
        pil = require_pillow()
        resample = getattr(pil.Resampling, self.interpolation.upper())
        return np.stack([np.asarray(pil.fromarray(p).resize(size[::-1], resample)) for p in planes])


class PixelPreprocess(Preprocess):
    """How a picture becomes the input of a model that normalises it itself: `mean` and `std` are those in the model."""

    makes: Literal["uint8"] = "uint8"

    def apply(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[Any]:
        """Resizes and crops as `Preprocess` does, and rounds to pixels; returns uint8 [C, H, W]. Raises InputError."""
        pixels = np.clip(np.rint(self._cropped(image)), 0, 255).astype(np.uint8)
        return np.array(np.broadcast_to(pixels, self.input_size), order="C")
