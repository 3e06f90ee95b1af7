"""What the parts of a detector are calibrated on: training images, and the regions the float model looks at in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvit_deploy.data.pictures import BadPictureError
from qvit_deploy.errors import InputError
from tools.paper.coco.detect import found_in
from tools.paper.coco.graphs import TRUNK, Parts
from tools.paper.coco.pictures import Coco, on_canvas, preprocess

HELD_OUT = 4
"""Canvases beside those of calibration, on which a compile measures its quality: few, as their feature maps are
large."""
REGIONS = 64
"""Regions of an image that the heads are calibrated on, drawn from all that a head sees of it."""


@dataclass(frozen=True)
class Canvases:
    """Training images on their canvases.

    Attributes:
        pixels: uint8 [n, H, W, 3].
        inside: (height, width) of every image on its canvas.
        skipped: images passed over because they could not be read.
    """

    pixels: NDArray[np.uint8]
    inside: tuple[tuple[int, int], ...]
    skipped: int


@dataclass(frozen=True)
class Recorder(Parts):
    """Parts that keep some of what the heads of regions are given: head -> rows."""

    generator: np.random.Generator = field(kw_only=True)
    seen: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict, kw_only=True)

    def run(self, part: str, inputs: Tensor) -> dict[str, Tensor]:
        """Runs a part, see `Parts`, and keeps up to `REGIONS` rows of the inputs of a head."""
        if part != TRUNK:
            chosen = np.sort(self.generator.permutation(len(inputs))[:REGIONS])
            self.seen.setdefault(part, []).append(inputs[torch.from_numpy(chosen)].numpy())
        return super().run(part, inputs)


def draw_canvases(data: Coco, canvas: tuple[int, int], count: int, seed: int) -> Canvases:
    """Draws training images by `seed`: `count` for calibration and a few to measure on. Raises InputError when fewer
    than two can be read."""
    pixels: list[NDArray[np.uint8]] = []
    inside: list[tuple[int, int]] = []
    skipped = 0
    for index in np.random.default_rng(seed).permutation(len(data.train)):
        if len(pixels) == count + HELD_OUT:
            break
        try:
            drawn, size, _ = on_canvas(data.train[index], canvas)
        except BadPictureError:
            skipped += 1
            continue
        pixels.append(drawn)
        inside.append(size)
    if len(pixels) < 2:
        raise InputError(f"calibration needs 2 images or more; {len(pixels)} of train2017 can be read")
    return Canvases(np.stack(pixels), tuple(inside), skipped)


def write_data(canvases: Canvases, files: Mapping[str, Path], seed: int, folder: Path) -> None:
    """Writes the DATA of every part into `folder`: the canvases, and the features of regions that its float head gets.

    Args:
        files: part -> float file.

    Raises:
        InputError: the float model finds nothing in the images, so that a head sees no regions.
    """
    np.savez(data_file(folder, TRUNK), images=canvases.pixels)
    height, width = canvases.pixels.shape[1:3]
    prepare = preprocess((height, width))
    recorder = Recorder(Parts.open(files).sessions, generator=np.random.default_rng(seed))
    for pixels, inside in zip(canvases.pixels, canvases.inside, strict=True):
        found_in(recorder, torch.from_numpy(prepare.apply(pixels)), inside)
    for part in files:
        if part == TRUNK:
            continue
        rows = recorder.seen.get(part, [])
        if sum(map(len, rows)) < 2:
            raise InputError(
                f"the detector in float finds nothing in {len(canvases.inside)} images of train2017, so {part} "
                "cannot be calibrated; check its weights"
            )
        np.save(data_file(folder, part), np.concatenate(rows))


def data_file(folder: Path, part: str) -> Path:
    """Returns where `write_data` writes the DATA of a part."""
    return folder / (f"{part}.npz" if part == TRUNK else f"{part}.npy")
