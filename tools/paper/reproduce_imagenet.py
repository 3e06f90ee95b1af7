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
import itertools
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import qvit_deploy
from qvit_deploy.cli.console import Bars, error_line, stderr
from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import CheckError, QvitError
from qvit_deploy.frontend import Source
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.recipe import Recipe
from tools.paper.imagenet_inputs import ImageNet, Model
from tools.paper.published_imagenet import METHODS, MODELS, PaperModel
from tools.paper.results_file import add_rows, read_rows
from tools.paper.runs import MANIFEST_COLUMNS, RUNS, manifest_cells, positive, recipe_of

IDENTITY = ("model", "run", "weights", "recipe", "val", "limit", "version")
"""Rows that agree in these are the same measurement."""
PUBLISHED = ("float (published)", *(f"{method} (published)" for method in METHODS))
COLUMNS = (
    *("model", "run", "top1", "n", "skipped", *PUBLISHED, "widths", *MANIFEST_COLUMNS),
    *("calibration_skipped", "seconds"),
    *IDENTITY[2:],
)


@dataclass(frozen=True)
class Task:
    """A row to measure. `identity` holds its cells of `IDENTITY`."""

    model: Model
    run: str
    recipe: Recipe | None
    identity: tuple[str, ...]


def tasks(arguments: argparse.Namespace, data: ImageNet) -> list[Task]:
    """Lists the runs that the command line selects, model by model. Raises InputError."""
    selected = []
    recipes = {name: recipe_of(RUNS[name], arguments.seed, arguments.recipe) for name in arguments.runs}
    for name in dict.fromkeys(arguments.models):
        file = f"{name.partition('?')[0]}.safetensors"
        model = Model(name, None if arguments.pretrained else arguments.checkpoints / file)
        for run, recipe in recipes.items():
            digest = "" if recipe is None else recipe.digest()[:16]
            limit = "" if arguments.limit is None else str(arguments.limit)
            version = qvit_deploy.__version__
            selected.append(Task(model, run, recipe, (name, run, model.weights, digest, data.digest, limit, version)))
    return selected


def reproduce(arguments: argparse.Namespace) -> int:
    """Measures the rows that are missing and prints all; returns 1 if a bundle failed its verification.

    All inputs are checked before the first run, because runs take hours.

    Raises:
        InputError: the data, a model or the CSV cannot be used.
    """
    data = ImageNet.at(arguments.imagenet)
    selected = tasks(arguments, data)
    add_rows(arguments.out, COLUMNS, [])  # cannot be written? Better now than after the first run.
    rows = {tuple(row[name] for name in IDENTITY): row for row in read_rows(arguments.out, COLUMNS)}
    missing = [task for task in selected if task.identity not in rows]
    stderr.print(f"{len(missing)} runs to do, {len(selected) - len(missing)} are in {arguments.out}", soft_wrap=True)
    for model in dict.fromkeys(task.model for task in missing):
        model.check(data)

    failed = False
    for model, group in itertools.groupby(missing, key=lambda task: task.model):
        source = model.load()
        for task in group:
            stderr.print(f"{model.name} {task.run}", style="bold", markup=False, soft_wrap=True)
            try:
                with Bars() as bars:
                    measured = measure(source, task.recipe, data, arguments.limit, bars)
            except CheckError as error:
                error_line(f"{model.name} {task.run}: {error}")
                failed = True
                continue
            known = dict(zip(IDENTITY, task.identity, strict=True))
            row = {**known, **published(model.paper, task.run), "widths": RUNS[task.run].widths, **measured}
            rows[task.identity] = {name: row.get(name, "") for name in COLUMNS}
            add_rows(arguments.out, COLUMNS, [rows[task.identity]])
    _print(rows[task.identity] for task in selected if task.identity in rows)
    return 1 if failed else 0


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


def _print(rows: Iterable[Mapping[str, str]]) -> None:
    table = Table(
        title="ImageNet top-1, %",
        caption="Published numbers of the same nominal width: fixed widths for PTQ4ViT, APQ-ViT and RepQ-ViT, "
        "mixed for LRP-QViT (from one secondary source).",
    )
    table.add_column("model", overflow="fold")
    table.add_column("run")
    for name in ("ours", "n", "float", *METHODS):
        table.add_column(name, justify="right", min_width=len(name))
    for row in rows:
        paper = MODELS.get(row["model"])
        label = row["model"] if paper is None else paper.label
        table.add_row(label, row["run"], f"[bold]{row['top1']}[/]", row["n"], *(row[name] for name in PUBLISHED))
    Console(width=120).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line: 0 done, 1 a bundle failed its verification, 2 unusable input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("imagenet", type=Path, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write or to go on with")
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--pretrained", action="store_true", help="let timm fetch the weights")
    weights.add_argument("--checkpoints", type=Path, help="folder with NAME.safetensors for every model")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="timm names, also NAME?key=value")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--limit", type=positive, help="evaluate this many images, balanced over the classes")
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
