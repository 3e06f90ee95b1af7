"""`qvit-deploy eval`: accuracy of a bundle or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, print_json, skipped_lines, sqnr_text, stdout
from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.targets.registry import REFERENCE, TARGETS
from qvit_deploy.targets.target import FLOAT

# ruff: noqa: UP045


def command(
    path: Annotated[Path, typer.Argument(help="a bundle or an .onnx file")],
    data: Annotated[str, typer.Option(help="images: a folder, an .npz or demo:fashion-mnist")],
    labels: options.Labels = None,
    preprocess: Annotated[Optional[Path], typer.Option(help="JSON; a bundle brings its own")] = None,
    target: Annotated[
        str, typer.Option("--target", "--profile", help=f"which of the bundle's models: {', '.join((*TARGETS, FLOAT))}")
    ] = REFERENCE.name,
    task: options.Task = None,
    limit: Annotated[Optional[int], typer.Option(help="use this many images, balanced over the classes")] = None,
    skip_bad_images: Annotated[bool, typer.Option(help="leave out images that cannot be read")] = False,
    threads: Annotated[int, typer.Option(help="0: OMP_NUM_THREADS, or one per core")] = 0,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on standard output")] = False,
) -> None:
    """Compute what the model's task measures by labels and against float (top-1, mIoU, AP, ...), and SQNR, in the
    runtime that the file is for."""
    with Bars() as bars:
        result = evaluate(
            path,
            data,
            labels=labels,
            preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
            target=target,
            task=task,
            limit=limit,
            skip_bad_images=skip_bad_images,
            threads=threads,
            progress=bars,
        )
    skipped_lines(result.skipped_images)
    if json:
        print_json(result.as_dict())
        return
    if result.by_labels:
        numbers = [figure.text for figure in result.by_labels]
        stdout.print(f"{', '.join(numbers)}, n={result.n}", soft_wrap=True)
    if result.sqnr_by_output is not None:
        numbers = [figure.text for figure in result.to_float] + [f"SQNR {sqnr_text(result.sqnr_by_output)}"]
        stdout.print(f"{', '.join(numbers)}, n={result.n}", soft_wrap=True)
