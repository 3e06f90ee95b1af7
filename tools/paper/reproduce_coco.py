"""Reproduces the COCO table of the LRP-QViT paper (arXiv 2401.11243): Swin-T and Swin-S with Mask R-CNN and Cascade
Mask R-CNN, one CSV row per detector and width, with published numbers.

    python -m tools.paper.reproduce_coco COCO --out coco.csv --checkpoints WEIGHTS
    python -m tools.paper.reproduce_coco COCO --out coco.csv --checkpoints WEIGHTS --models mask_rcnn_swin_tiny \
        --size 800x1344 --limit 500

COCO holds `annotations/instances_val2017.json`, `val2017/` (evaluated) and `train2017/` (32 of its images calibrate,
drawn with --seed). WEIGHTS holds `NAME.pth` or `NAME.safetensors` for every detector: checkpoints of mmdetection
(`mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco`) or of Swin's authors, the only ones of the cascade.

Every detector is several graphs, each compiled by itself: the trunk (Swin, the feature pyramid and the proposals' head,
images of one size to 14 outputs), a box head for every stage and the mask heads. Selecting proposals, RoIAlign and NMS
stand between them and are torchvision's. Heads are calibrated on the regions that the float model looks at in the same
training images. Cells about what was compiled are written `trunk | boxes0 | ... | masks`; a mean width holds in each.
In the trunk the first and the last layer have 8 bits. Layers that no target computes on integers, the transposed
convolutions of masks, are named by the column `in_float`.

Images are scaled to 800 pixels at their short side or 1333 at their long one and stand in the corner of a canvas of
--size. The default holds pictures of both orientations; a smaller one is faster, and what does not fit is made smaller.

A run that is in the CSV is skipped, so the same command goes on after an interruption; a run that was interrupted goes
on after its last image, from the folder `OUT.work`. A run is the same when detector, weights, recipe, size,
annotations, --limit and version of this program are; `seconds` counts from the last interruption.

The mixed widths are our choice, as in `reproduce_imagenet`.

It has not run on COCO or on published weights yet. Mask R-CNN with Swin-T at full width, with random weights and
canvases of 128x192, took 6 minutes a run on 2 cores and 11 GB of memory; larger canvases take more.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.table import Table

import qvit_deploy
from qvit_deploy.cli.console import Bars, error_line, stderr
from qvit_deploy.errors import CheckError, InputError, QvitError
from qvit_deploy.progress import Stopwatch
from qvit_deploy.recipe import Recipe
from qvit_deploy.tasks.detect.coco import require_pycocotools
from tools.paper.coco.calibration import draw_canvases, write_data
from tools.paper.coco.detector import Architecture, Detector, architecture
from tools.paper.coco.graphs import export
from tools.paper.coco.measure import Exported, measure
from tools.paper.coco.pictures import Coco
from tools.paper.coco.weights import load_detector
from tools.paper.published_coco import DETECTORS, METHODS, Precisions
from tools.paper.results_file import add_rows, read_rows
from tools.paper.runs import MANIFEST_COLUMNS, RUNS, positive, recipe_of

IDENTITY = ("model", "run", "weights", "recipe", "size", "seed", "annotations", "limit", "version")
"""Rows that agree in these are the same measurement."""
PUBLISHED = ("float (published)", *(f"{method} (published)" for method in METHODS))
COLUMNS = (
    *("model", "run", "box_ap", "mask_ap", "n", *PUBLISHED, "widths", *MANIFEST_COLUMNS),
    *("in_float", "calibration_skipped", "seconds"),
    *IDENTITY[2:],
)


@dataclass(frozen=True)
class Model:
    """A detector, called `NAME` or with other sizes `NAME?key=value&...`, and the folder of its weights."""

    name: str
    sizes: Architecture
    checkpoints: Path

    @cached_property
    def checkpoint(self) -> Path:
        """The file of the weights. Raises InputError."""
        name = self.name.partition("?")[0]
        files = [self.checkpoints / f"{name}{ending}" for ending in (".pth", ".safetensors")]
        for file in files:
            if file.is_file():
                return file
        raise InputError(f"there is no {files[0]} and no {files[1].name} beside it")

    @cached_property
    def weights(self) -> str:
        """Which weights these are. Raises InputError."""
        try:
            return f"sha256 {hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()[:16]}"
        except OSError as error:
            raise InputError(f"checkpoint {self.checkpoint} cannot be read: {error.strerror}") from None

    def load(self, canvas: tuple[int, int], classes: int) -> Detector:
        """Returns the detector with its weights. Raises InputError."""
        detector = Detector(self.sizes, canvas, classes)
        load_detector(detector, self.checkpoint)
        return detector


@dataclass(frozen=True)
class Task:
    """A row to measure. `identity` holds its cells of `IDENTITY`."""

    model: Model
    run: str
    recipe: Recipe | None
    identity: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Names the folder of what is finished of the row."""
        return hashlib.sha256("\n".join(self.identity).encode()).hexdigest()[:16]


def tasks(arguments: argparse.Namespace, data: Coco) -> list[Task]:
    """Lists the runs that the command line selects, model by model. Raises InputError."""
    # One image at a time: the finest feature map of one takes more than 100 MB.
    recipes = {
        name: recipe_of(RUNS[name], arguments.seed, arguments.recipe, batch_size=1, task="outputs")
        for name in arguments.runs
    }
    selected = []
    for name in dict.fromkeys(arguments.models):
        model = Model(name, architecture(name), arguments.checkpoints)
        for run, recipe in recipes.items():
            digest = "" if recipe is None else recipe.digest()[:16]
            limit = "" if arguments.limit is None else str(arguments.limit)
            size = "x".join(map(str, arguments.size))
            which = (model.weights, digest, size, str(arguments.seed), data.digest, limit, qvit_deploy.__version__)
            selected.append(Task(model, run, recipe, (name, run, *which)))
    return selected


def reproduce(arguments: argparse.Namespace) -> int:
    """Measures the rows that are missing and prints all; returns 1 if a bundle failed its verification.

    All inputs are checked before the first run, because runs take hours.

    Raises:
        InputError: the data, a model or the CSV cannot be used, or pycocotools is missing.
    """
    require_pycocotools()
    data = Coco.at(arguments.coco)
    selected = tasks(arguments, data)
    add_rows(arguments.out, COLUMNS, [])  # cannot be written? Better now than after the first run.
    rows = {tuple(row[name] for name in IDENTITY): row for row in read_rows(arguments.out, COLUMNS)}
    missing = [task for task in selected if task.identity not in rows]
    stderr.print(f"{len(missing)} runs to do, {len(selected) - len(missing)} are in {arguments.out}", soft_wrap=True)
    for model in dict.fromkeys(task.model for task in missing):
        model.load(arguments.size, len(data.categories))

    failed = False
    work = arguments.out.with_name(arguments.out.name + ".work")
    for model, group in itertools.groupby(missing, key=lambda task: task.model):
        with tempfile.TemporaryDirectory(prefix="reproduce-coco-") as folder:
            exported = _exported(model, arguments, data, Path(folder))
            for task in group:
                stderr.print(f"{model.name} {task.run}", style="bold", markup=False, soft_wrap=True)
                try:
                    with Bars() as bars:
                        pictures = data.pictures[: arguments.limit]
                        measured = measure(
                            exported, task.recipe, data, pictures, work / task.digest, Stopwatch(bars)
                        )  # fmt: skip
                except CheckError as error:
                    error_line(f"{model.name} {task.run}: {error}")
                    failed = True
                    continue
                known = dict(zip(IDENTITY, task.identity, strict=True))
                row = {**known, **published(model.name, task.run), "widths": RUNS[task.run].widths, **measured}
                rows[task.identity] = {name: row.get(name, "") for name in COLUMNS}
                add_rows(arguments.out, COLUMNS, [rows[task.identity]])
                shutil.rmtree(work / task.digest)
    _print(rows[task.identity] for task in selected if task.identity in rows)
    return 1 if failed else 0


def published(model: str, run: str) -> dict[str, str]:
    """Returns the published cells of a row, box and mask AP, "" where none is known. Fixed and mixed widths of one mean
    share them."""
    if model not in DETECTORS:
        return dict.fromkeys(PUBLISHED, "")
    bits = RUNS[run].bits
    paper = DETECTORS[model]
    pairs: tuple[Precisions | None, ...] = (None,) * len(METHODS) if bits is None else paper.aps[bits]
    texts = ("" if pair is None else f"{pair[0]:.1f}/{pair[1]:.1f}" for pair in (paper.float_ap, *pairs))
    return dict(zip(PUBLISHED, texts, strict=True))


def _exported(model: Model, arguments: argparse.Namespace, data: Coco, folder: Path) -> Exported:
    """Writes the float parts of a detector and what to calibrate them on. Raises InputError."""
    with Bars() as bars, bars.stage("export"):
        export(model.load(arguments.size, len(data.categories)), model.sizes, arguments.size, folder)
        canvases = draw_canvases(data, arguments.size, arguments.seed)
        exported = Exported(folder, model.sizes.stages, arguments.size, canvases.skipped)
        write_data(canvases, exported.files, arguments.seed, folder)
    return exported


def _print(rows: Iterable[Mapping[str, str]]) -> None:
    table = Table(
        title="COCO AP of boxes/masks, %",
        caption="Published numbers are of the same nominal width. Those of LRP-QViT were not found.",
    )
    table.add_column("model", overflow="fold")
    table.add_column("run")
    for name in ("ours", "n", "float", *METHODS):
        table.add_column(name, justify="right", min_width=len(name))
    for row in rows:
        paper = DETECTORS.get(row["model"])
        label = row["model"] if paper is None else paper.label
        ours = f"[bold]{row['box_ap']}/{row['mask_ap']}[/]"
        table.add_row(label, row["run"], ours, row["n"], *(row[name] for name in PUBLISHED))
    Console(width=140).print(table)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None or any(int(side) % 32 or int(side) == 0 for side in found.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in multiples of 32, e.g. 800x1344")
    return int(found[1]), int(found[2])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line: 0 done, 1 a bundle failed its verification, 2 unusable input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("coco", type=Path, help="folder with annotations/, val2017/ and train2017/")
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write or to go on with")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder with NAME.pth or NAME.safetensors")
    parser.add_argument("--models", nargs="+", default=list(DETECTORS), help="detectors, also NAME?key=value")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--size", type=_size, default=(1344, 1344), help="HEIGHTxWIDTH of the canvas")
    parser.add_argument("--limit", type=positive, help="evaluate the first this many images")
    parser.add_argument("--seed", type=int, default=0, help="of the calibration images")
    parser.add_argument("--recipe", type=Path, help="TOML file with choices that the runs leave open")
    arguments = parser.parse_args(argv)
    try:
        return reproduce(arguments)
    except QvitError as error:
        error_line(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        error_line(f"interrupted; finished runs are in {arguments.out}, the same command goes on after them")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
