"""Reproduces the COCO table of the LRP-QViT paper (arXiv 2401.11243): Swin-T and Swin-S with Mask R-CNN and Cascade
Mask R-CNN, one CSV row per detector and width, with published numbers.

    python -m tools.paper.reproduce_coco COCO --out coco.csv --checkpoints WEIGHTS
    python -m tools.paper.reproduce_coco COCO --out coco.csv --checkpoints WEIGHTS --models mask_rcnn_swin_tiny \
        --size 800x1344 --limit 500

COCO holds `annotations/instances_val2017.json`, `val2017/` (evaluated) and `train2017/` (8 of its images calibrate, or
--calibration-images, drawn with --seed). WEIGHTS holds `NAME.pth` or `NAME.safetensors` for every detector: checkpoints
of mmdetection (`mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco`) or of Swin's authors, the only ones of the cascade.

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
canvases of 128x192, took 6 minutes a run on 2 cores and 11 GB of memory. By the sizes of tensors (not measured on large
canvases) two things take memory:

* The first layer of Mask R-CNN's box head has 12,544 inputs: four float32 and six float64 matrices of that size stand
  side by side while it is rounded, 10 GB whatever the canvas. The cascade's has as many, three times one after another.
* Rounding the trunk holds every calibration image in a float and a quantized run, 0.3 GB each at 800x1344 and 0.5 GB
  at 1344x1344: 5 or 8 GB with 8 images, 20 or 32 GB with 32. Everything else passes over one image at a time, the
  backward pass with some 5 GB and the comparison of codes with some 8 GB at 800x1344.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.table import Table

import qvit_deploy
from qvit_deploy.cli.console import Bars
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Stopwatch
from qvit_deploy.tasks.detect.coco import require_pycocotools
from tools.paper import table
from tools.paper.coco.calibration import draw_canvases, write_data
from tools.paper.coco.detector import Architecture, Detector, architecture
from tools.paper.coco.graphs import export
from tools.paper.coco.measure import Exported, measure
from tools.paper.coco.pictures import Coco
from tools.paper.coco.weights import load_detector
from tools.paper.published_coco import DETECTORS, METHODS, Precisions
from tools.paper.runs import MANIFEST_COLUMNS, RUNS, positive
from tools.paper.table import FLOAT, Measure, PaperTable, Row, Task, published_column

IDENTITY = ("model", "run", "weights", "recipe", "size", "seed", "annotations", "limit", "version")
"""Rows that agree in these are the same measurement."""
PUBLISHED = tuple(map(published_column, (FLOAT, *METHODS)))
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
class CocoTable(PaperTable[Model]):
    """AP of boxes and masks on `data`.

    Attributes:
        limit: evaluate the first this many pictures; None: all.
        images: of train2017 to calibrate on.
        seed: of their draw.
        work: folder with what is finished of the rows.
    """

    columns, identity = COLUMNS, IDENTITY
    data: Coco
    canvas: tuple[int, int]
    limit: int | None
    images: int
    seed: int
    work: Path

    def check(self, model: Model) -> None:
        """Raises InputError when the weights do not fit."""
        self._load(model)

    @contextmanager
    def opened(self, model: Model) -> Iterator[Measure[Model]]:
        """Writes the float parts of a detector and what to calibrate them on, once for all its rows."""
        pictures = self.data.pictures[: self.limit]
        with tempfile.TemporaryDirectory(prefix="reproduce-coco-") as folder:
            exported = self._exported(model, Path(folder))
            yield lambda task, progress: measure(
                exported, task.recipe, self.data, pictures, self.work / task.digest, Stopwatch(progress)
            )

    def published(self, task: Task[Model]) -> Row:
        """Returns the published cells of a row, see `published`."""
        return published(task.model.name, task.run)

    def written(self, task: Task[Model]) -> None:
        """Removes what was kept for a resumption."""
        shutil.rmtree(self.work / task.digest)

    def _load(self, model: Model) -> Detector:
        return model.load(self.canvas, len(self.data.categories))

    def _exported(self, model: Model, folder: Path) -> Exported:
        with Bars() as bars, bars.stage("export"):
            export(self._load(model), model.sizes, self.canvas, folder)
            canvases = draw_canvases(self.data, self.canvas, self.images, self.seed)
            exported = Exported(folder, model.sizes.stages, self.canvas, canvases.skipped)
            write_data(canvases, exported.files, self.seed, folder)
        return exported


def reproduce(arguments: argparse.Namespace) -> int:
    """Measures the rows that are missing and prints all; returns 1 if a bundle failed its verification.

    Raises:
        InputError: the data, a model or the CSV cannot be used, or pycocotools is missing.
    """
    require_pycocotools()
    data = Coco.at(arguments.coco)
    models = [Model(name, architecture(name), arguments.checkpoints) for name in dict.fromkeys(arguments.models)]
    size, seed = "x".join(map(str, arguments.size)), str(arguments.seed)
    rest = (size, seed, data.digest, table.limit_cell(arguments), qvit_deploy.__version__)
    # One image at a time: the finest feature map of one takes more than 100 MB.
    recipes = table.recipes(arguments, arguments.calibration_images, batch_size=1, task="outputs")
    selected = table.tasks(models, recipes, lambda model, recipe: (model.weights, recipe, *rest))
    work = arguments.out.with_name(arguments.out.name + ".work")
    filled = CocoTable(data, arguments.size, arguments.limit, arguments.calibration_images, arguments.seed, work)
    rows, failed = filled.fill(arguments.out, selected)
    _print(rows)
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


def _print(rows: Iterable[Row]) -> None:
    shown = Table(
        title="COCO AP of boxes/masks, %",
        caption="Published numbers are of the same nominal width. Those of LRP-QViT were not found.",
    )
    labels = {name: paper.label for name, paper in DETECTORS.items()}
    table.print_rows(shown, rows, labels, ("box_ap", "mask_ap"), METHODS)


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
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder with NAME.pth or NAME.safetensors")
    parser.add_argument("--size", type=_size, default=(1344, 1344), help="HEIGHTxWIDTH of the canvas")
    parser.add_argument("--calibration-images", type=positive, default=8, help="8 unless said")
    table.add_arguments(parser, DETECTORS, "evaluate the first this many images")
    return table.run(reproduce, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
