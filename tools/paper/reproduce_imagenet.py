"""Reproduces the LRP-QViT paper's ImageNet table: one CSV row per model and width, with the published numbers.

    python -m tools.paper.reproduce_imagenet IMAGENET --out imagenet.csv --pretrained
    python -m tools.paper.reproduce_imagenet IMAGENET --out imagenet.csv --checkpoints WEIGHTS \
        --models deit_tiny_patch16_224

IMAGENET holds `train/` (32 of its images calibrate, drawn with --seed) and `val/` (evaluated, with one sub-folder per
class: sorted by name, the wnid, they are the labels 0, 1, ... of pretrained models). Weights are timm's own downloads
(--pretrained) or `WEIGHTS/NAME.safetensors` (--checkpoints). Images that cannot be read are left out and counted.

A run that is in the CSV is skipped, so the same command goes on after an interruption. A run is the same when model,
weights, recipe, validation images, --limit and version of this program are.

These choices are not the paper's, which are not known (see published_imagenet.py): MP4 chooses from 3, 4 and 5 bits
with mean 4, MP6 from 4, 6 and 8 bits with mean 6. In all runs the first and the last layer have 8 bits and the
attention products are quantized too; the column `quantized` counts what the bundle holds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

import qvit_deploy
from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.frontend import Source
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.recipe import Recipe
from tools.paper import table
from tools.paper.imagenet_inputs import ImageNet, Model
from tools.paper.published_imagenet import METHODS, MODELS, PaperModel
from tools.paper.runs import MANIFEST_COLUMNS, RUNS, manifest_cells
from tools.paper.table import FLOAT, Measure, PaperTable, Row, Task, published_column

CALIBRATION_IMAGES = 32
IDENTITY = ("model", "run", "weights", "recipe", "val", "limit", "version")
"""Rows that agree in these are the same measurement."""
PUBLISHED = tuple(map(published_column, (FLOAT, *METHODS)))
COLUMNS = (
    *("model", "run", "top1", "n", "skipped", *PUBLISHED, "widths", *MANIFEST_COLUMNS),
    *("calibration_skipped", "seconds"),
    *IDENTITY[2:],
)


@dataclass(frozen=True)
class ImageNetTable(PaperTable[Model]):
    """Top-1 on `data`, of the images that `limit` leaves."""

    columns, identity = COLUMNS, IDENTITY
    data: ImageNet
    limit: int | None

    def check(self, model: Model) -> None:
        """Raises InputError when a model does not exist or does not fit its weights or the data."""
        model.check(self.data)

    @contextmanager
    def opened(self, model: Model) -> Iterator[Measure[Model]]:
        """Traces the model once for all its rows."""
        source = model.load()
        yield lambda task, progress: measure(source, task.recipe, self.data, self.limit, progress)

    def published(self, task: Task[Model]) -> Row:
        """Returns the published cells of a row, see `published`."""
        return published(task.model.paper, task.run)

    def written(self, task: Task[Model]) -> None:
        """Has nothing to do: a row leaves nothing behind."""


def reproduce(arguments: argparse.Namespace) -> int:
    """Measures the rows that are missing and prints all; returns 1 if a bundle failed its verification.

    Raises:
        InputError: the data, a model or the CSV cannot be used.
    """
    data = ImageNet.at(arguments.imagenet)
    limit, version = table.limit_cell(arguments), qvit_deploy.__version__
    models = [_model(name, arguments) for name in dict.fromkeys(arguments.models)]
    recipes = table.recipes(arguments, CALIBRATION_IMAGES)
    selected = table.tasks(models, recipes, lambda model, recipe: (model.weights, recipe, data.digest, limit, version))
    rows, failed = ImageNetTable(data, arguments.limit).fill(arguments.out, selected)
    _print(rows)
    return 1 if failed else 0


def _model(name: str, arguments: argparse.Namespace) -> Model:
    file = f"{name.partition('?')[0]}.safetensors"
    return Model(name, None if arguments.pretrained else arguments.checkpoints / file)


def measure(
    source: Source, recipe: Recipe | None, data: ImageNet, limit: int | None, progress: Progress
) -> dict[str, str]:
    """Compiles and evaluates; returns the measured cells of a row, the float model's without a recipe.

    Raises:
        InputError: the images cannot be used.
        CheckError: the bundle failed its verification.
    """
    watch = Stopwatch(progress)
    cells: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="reproduce-imagenet-") as folder:
        if recipe is None:
            path = Path(folder) / "model.float.onnx"
            path.write_bytes(source.graph.serialize())
        else:
            compiled = qvit_deploy.compile(
                source, Path(folder) / "bundle", calib=str(data.train), recipe=recipe, skip_bad_images=True,
                progress=watch,
            )  # fmt: skip
            path = compiled.bundle.path_of("model.onnxruntime.onnx")
            cells = manifest_cells(compiled.bundle.manifest)
            cells["calibration_skipped"] = str(len(compiled.skipped_images))
        preprocess = Preprocess.model_validate(source.preprocess)
        result = evaluate(path, str(data.val), preprocess=preprocess, limit=limit, skip_bad_images=True, progress=watch)
    assert result.top1 is not None  # `val` has class folders
    cells |= {"top1": f"{100 * result.top1:.2f}", "n": str(result.n), "skipped": str(len(result.skipped_images))}
    return {**cells, "seconds": f"{sum(watch.seconds.values()):.0f}"}


def published(paper: PaperModel | None, run: str) -> dict[str, str]:
    """Returns the published cells of a row, "" where none is known. Fixed and mixed widths of one mean share them."""
    if paper is None:
        return dict.fromkeys(PUBLISHED, "")
    bits = RUNS[run].bits
    numbers = (paper.float_top1, *([None] * len(METHODS) if bits is None else paper.top1[bits]))
    return {name: "" if n is None else f"{n:.2f}" for name, n in zip(PUBLISHED, numbers, strict=True)}


def _print(rows: Iterable[Row]) -> None:
    shown = Table(
        title="ImageNet top-1, %",
        caption="Published numbers of the same nominal width: fixed widths for PTQ4ViT, APQ-ViT and RepQ-ViT, "
        "mixed for LRP-QViT (from one secondary source).",
    )
    table.print_rows(shown, rows, {name: paper.label for name, paper in MODELS.items()}, ("top1",), METHODS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line: 0 done, 1 a bundle failed its verification, 2 unusable input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("imagenet", type=Path, help="folder with train/ and val/")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--pretrained", action="store_true", help="let timm fetch the weights")
    weights.add_argument("--checkpoints", type=Path, help="folder with NAME.safetensors for every model")
    table.add_arguments(parser, MODELS, "evaluate this many images, balanced over the classes")
    return table.run(reproduce, parser.parse_args(argv))


if __name__ == "__main__":
    raise SystemExit(main())
