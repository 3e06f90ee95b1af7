"""Measures one row of the COCO table; what is finished is kept in a folder, from which an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qvit_deploy.artifacts.bundle import Bundle, read_bundle
from qvit_deploy.data.pictures import BadPictureError
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Stopwatch
from qvit_deploy.recipe import Recipe
from tools.paper.coco.average_precision import average_precision
from tools.paper.coco.detect import found_in, rows
from tools.paper.coco.graphs import TRUNK, Parts, compile_trunk
from tools.paper.coco.pictures import Coco, Picture, on_canvas, preprocess
from tools.paper.runs import manifest_cells

HELD_OUT = 4
"""Canvases beside those of calibration, on which a compile measures its quality: few, as their feature maps are
large."""
FLOAT_PARTS = "box and mask heads"
_DETECTIONS = "detections.jsonl"


@dataclass(frozen=True)
class Exported:
    """A detector's parts as float files, and the canvases to calibrate on.

    Attributes:
        folder: with the files of `graphs.export`.
        images: an `.npz`.
        skipped: training images that could not be read.
    """

    folder: Path
    stages: int
    canvas: tuple[int, int]
    images: Path
    skipped: int


def write_canvases(data: Coco, canvas: tuple[int, int], count: int, seed: int, path: Path) -> int:
    """Writes `count` training images, drawn by `seed`, as an `.npz`; returns how many were passed over as unreadable.

    Raises:
        InputError: fewer than two can be read.
    """
    canvases: list[NDArray[np.uint8]] = []
    skipped = 0
    for index in np.random.default_rng(seed).permutation(len(data.train)):
        if len(canvases) == count:
            break
        try:
            canvases.append(on_canvas(data.train[index], canvas)[0])
        except BadPictureError:
            skipped += 1
    if len(canvases) < 2:
        raise InputError(f"calibration needs 2 images or more; {len(canvases)} of train2017 can be read")
    np.savez(path, images=np.stack(canvases))
    return skipped


def measure(
    exported: Exported, recipe: Recipe | None, data: Coco, pictures: Sequence[Picture], work: Path, watch: Stopwatch
) -> dict[str, str]:
    """Compiles and evaluates; returns the measured cells of a row, the float model's without a recipe.

    Args:
        work: folder of this row alone; what is in it is not computed again.

    Raises:
        InputError: a picture cannot be used.
        CheckError: a bundle failed its verification.
    """
    work.mkdir(parents=True, exist_ok=True)
    trunk, cells = exported.folder / TRUNK, {}
    if recipe is not None:
        bundle = _bundle(exported, recipe, work / "trunk", watch)
        trunk, cells = bundle.path_of("model.onnxruntime.onnx"), manifest_cells(bundle.manifest)
        cells |= {"calibration_skipped": str(exported.skipped), "in_float": FLOAT_PARTS}
    detect(exported, trunk, data, pictures, work / _DETECTIONS, watch)
    with watch.stage("average precision"):
        results = [row for found in finished(work / _DETECTIONS).values() for row in found]
        box, mask = average_precision(data.annotations, results, [picture.id for picture in pictures])
    cells |= {"box_ap": f"{100 * box:.2f}", "mask_ap": f"{100 * mask:.2f}", "n": str(len(pictures))}
    return {**cells, "seconds": f"{sum(watch.seconds.values()):.0f}"}


def detect(
    exported: Exported, trunk: Path, data: Coco, pictures: Sequence[Picture], path: Path, watch: Stopwatch
) -> None:
    """Adds a line of detections to `path` for every picture that has none yet. Raises InputError."""
    done = finished(path)
    if len(done) == len(pictures):
        return
    prepare = preprocess(exported.canvas)
    parts = Parts.open(trunk, exported.folder, exported.stages)
    _cut_half_line(path)
    with watch.stage("detect", len(pictures)) as advance, path.open("a", encoding="utf-8") as file:
        advance(len(done))
        for picture in pictures:
            if picture.id in done:
                continue
            pixels, inside, size = on_canvas(picture.path, exported.canvas)
            found, masks = found_in(parts, torch.from_numpy(prepare.apply(pixels)), inside)
            file.write(_line(picture.id, rows(found, masks, inside, size, picture.id, data.categories)))
            file.flush()
            advance(1)


def finished(path: Path) -> dict[int, list[Mapping[str, Any]]]:
    """Returns image -> detections of the whole lines in a file; a killed process leaves half a line at its end."""
    done = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                image, found = json.loads(line)
                done[image] = found
    return done


def _bundle(exported: Exported, recipe: Recipe, out: Path, watch: Stopwatch) -> Bundle:
    """Opens the bundle `out`, or compiles the trunk into it: bundles appear whole or not at all."""
    if not out.exists():
        compile_trunk(exported.folder, out, exported.images, recipe, exported.canvas, watch)
    return read_bundle(out)


def _line(image: int, found: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([image, found]) + "\n"


def _cut_half_line(path: Path) -> None:
    """Ends a file with its last whole line, so that more can be added."""
    if path.exists():
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
