"""Measures one row of the COCO table; what is finished is kept in a folder, from which an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import qvit_deploy
from qvit_deploy.artifacts.bundle import Bundle, read_bundle
from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.progress import Stopwatch
from qvit_deploy.recipe import Recipe
from tools.paper.coco.average_precision import average_precision
from tools.paper.coco.calibration import REGIONS, data_file
from tools.paper.coco.detect import found_in, rows
from tools.paper.coco.graphs import TRUNK, Parts, float_file, parts_of
from tools.paper.coco.pictures import Coco, Picture, on_canvas, preprocess
from tools.paper.runs import MANIFEST_COLUMNS, manifest_cells

_DETECTIONS = "detections.jsonl"
_REGIONS_AT_ONCE = 32


@dataclass(frozen=True)
class Exported:
    """A detector's parts as float files, and what to calibrate them on.

    Attributes:
        folder: with the files of `graphs.export` and `calibration.write_data`.
        skipped: training images that could not be read.
    """

    folder: Path
    stages: int
    canvas: tuple[int, int]
    skipped: int

    @property
    def files(self) -> dict[str, Path]:
        """Part -> float file."""
        return {part: float_file(self.folder, part) for part in parts_of(self.stages)}


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
    files, cells = exported.files, {}
    if recipe is not None:
        bundles = {part: _bundle(exported, part, recipe, work, watch) for part in files}
        files = {part: bundle.path_of("model.onnxruntime.onnx") for part, bundle in bundles.items()}
        cells = _cells({part: bundle.manifest for part, bundle in bundles.items()})
        cells["calibration_skipped"] = str(exported.skipped)
    detect(files, exported.canvas, data, pictures, work / _DETECTIONS, watch)
    with watch.stage("average precision"):
        results = [row for found in finished(work / _DETECTIONS).values() for row in found]
        box, mask = average_precision(data.annotations, results, [picture.id for picture in pictures])
    cells |= {"box_ap": f"{100 * box:.2f}", "mask_ap": f"{100 * mask:.2f}", "n": str(len(pictures))}
    return {**cells, "seconds": f"{sum(watch.seconds.values()):.0f}"}


def detect(
    files: Mapping[str, Path],
    canvas: tuple[int, int],
    data: Coco,
    pictures: Sequence[Picture],
    path: Path,
    watch: Stopwatch,
) -> None:
    """Adds a line of detections to `path` for every picture that has none yet. Raises InputError.

    Args:
        files: part -> file.
    """
    done = finished(path)
    if len(done) == len(pictures):
        return
    prepare, parts = preprocess(canvas), Parts.open(files)
    _cut_half_line(path)
    with watch.stage("detect", len(pictures)) as advance, path.open("a", encoding="utf-8") as file:
        advance(len(done))
        for picture in pictures:
            if picture.id in done:
                continue
            pixels, inside, size = on_canvas(picture.path, canvas)
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


def _bundle(exported: Exported, part: str, recipe: Recipe, work: Path, watch: Stopwatch) -> Bundle:
    """Opens a part's bundle in `work`, or compiles it there: bundles appear whole or not at all.

    A head is calibrated on as many regions as its images give. Its first and last layer have no widths of their own, as
    they are most of it.
    """
    out = work / part
    if not out.exists():
        if part != TRUNK:
            changes = {
                "first_last_bits": None,
                "calibration_images": REGIONS * recipe.calibration_images,
                "batch_size": _REGIONS_AT_ONCE,
            }
            recipe = recipe.model_copy(update=changes)
        qvit_deploy.compile(
            str(exported.files[part]), out, calib=str(data_file(exported.folder, part)), recipe=recipe,
            preprocess=preprocess(exported.canvas) if part == TRUNK else None, progress=watch,
        )  # fmt: skip
    return read_bundle(out)


def _cells(manifests: Mapping[str, Manifest]) -> dict[str, str]:
    """Returns the cells of `MANIFEST_COLUMNS`, part by part, and the layers that no part computes on integers."""
    each = [manifest_cells(manifest) for manifest in manifests.values()]
    cells = {name: " | ".join(of[name] for of in each) for name in MANIFEST_COLUMNS}
    in_float = (f"{part}.{layer.name}" for part, manifest in manifests.items() for layer in manifest.in_float)
    return {**cells, "in_float": ", ".join(in_float)}


def _line(image: int, found: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([image, found]) + "\n"


def _cut_half_line(path: Path) -> None:
    """Ends a file with its last whole line, so that more can be added."""
    if path.exists():
        content = path.read_bytes()
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
