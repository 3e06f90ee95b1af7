"""Compiles small random models of the architectures that people deploy, and prints what became of each as a table.

Every model is exported by torch's two exporters, compiled at w8a8 for all targets, and each output of the bundle's
float file and quantized file is compared with the exported file in ONNX Runtime, on examples that the compile did not
see. A row that fails stays in the table with its reason. Weights are random, scaled so that activations are of the
size that trained networks have (`architectures/weights.py`).

    pip install transformers
    python -m tools.measure.coverage WORK [--only segformer] [--exporter torchscript] [--jobs 2]
    python -m tools.measure.coverage WORK --markdown docs/coverage.md

Results are kept in WORK/results.jsonl, one line per row; a row that is there is not compiled again without `--again`.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import re
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.progress import track

from qvit_deploy.errors import CheckError, QvitError
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.registry import REFERENCE, TARGETS
from qvit_deploy.targets.target import FLOAT, file_of
from tools.measure.architectures import dense, timm_families, towers
from tools.measure.architectures.architecture import Architecture
from tools.measure.coverage_outputs import Outputs, run, run_original, telling, worst_output
from tools.measure.coverage_table import NOISY, NOT_RUN, OK, Row, page

EXPORTERS = {"torchscript": (17, 18), "dynamo": (20,)}
"""Exporter -> opsets that it is asked for: a later one where it cannot write the model in the one before."""

LEAST_DB = {FLOAT: 60.0, REFERENCE.name: 15.0}
"""What each file must reach on its worst output: float noise aside the float file is the model, and random weights
quantize worse than trained ones."""

CALIBRATION = 16, 64
"""Images of DATA, of which a quarter is held out; the second where a row is noisy with the first."""
PIXEL_NOISE = 0.01
"""Deviation relative to that of the pixels: 40 dB. A row that fails says how much the float model makes of it."""
SECONDS = 300
"""Of computing that a row may take; ten times as much on the clock."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", action="append", default=[], help="rows whose name contains this")
    parser.add_argument("--exporter", choices=EXPORTERS, action="append", help="default: both")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, of one thread each")
    parser.add_argument("--again", action="store_true", help="compile rows again that are in WORK")
    parser.add_argument("--kept", action="store_true", help="compile nothing; rows that are not in WORK say so")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "results.jsonl"
    rows = {} if not kept.exists() else {(r.name, r.exporter): r for r in read(kept)}
    wanted = [
        (architecture, exporter)
        for architecture in architectures()
        for exporter in arguments.exporter or EXPORTERS
        if not arguments.only or any(text in architecture.name for text in arguments.only)
    ]
    targets = [t for t in arguments.target or TARGETS if t != REFERENCE.name]
    missing = [(a, e) for a, e in wanted if not arguments.kept and (arguments.again or (a.name, e) not in rows)]
    if missing:
        load_libraries({exporter for _, exporter in missing})
    with ThreadPoolExecutor(arguments.jobs) as pool, kept.open("a") as results:
        jobs = [pool.submit(in_process, a, e, work, targets) for a, e in missing]
        for job in track(as_completed(jobs), "compile", len(jobs), console=Console(stderr=True)):
            row = job.result()
            rows[row.name, row.exporter] = row
            print(json.dumps(asdict(row)), file=results, flush=True)
    rows = {(a.name, e): rows.get((a.name, e), Row(a.name, e, NOT_RUN)) for a, e in wanted}
    text = page(rows, list(dict.fromkeys(a for a, _ in wanted)), arguments.exporter or list(EXPORTERS))
    print(text)
    if arguments.markdown is not None:
        arguments.markdown.write_text(text, encoding="utf-8")


def architectures() -> list[Architecture]:
    """Returns the rows of the table: the dense models and towers of transformers, then timm's families."""
    return [*dense.architectures(), *towers.architectures(), *timm_families.architectures()]


def read(path: Path) -> Iterator[Row]:
    """Yields the rows of a results file; a later line of a row takes the place of an earlier one."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield Row(**json.loads(line))


def load_libraries(exporters: Collection[str]) -> None:
    """Loads once what every row's process needs, and lets it share what is loaded."""
    import openvino  # noqa: F401

    tiny = Architecture("tiny", "", lambda: torch.nn.Conv2d(3, 1, 4), (3, 8, 8))
    with TemporaryDirectory() as folder:
        for exporter in exporters:
            export(tiny, exporter, Path(folder) / "tiny.onnx")
    gc.collect()
    gc.freeze()


def in_process(architecture: Architecture, exporter: str, work: Path, targets: Sequence[str]) -> Row:
    """Makes the row in a process of its own: a library that crashes or hangs costs one row."""
    context = multiprocessing.get_context("fork")  # the libraries are loaded once
    receiver, sender = context.Pipe(duplex=False)
    folder = work / re.sub(r"\W+", "-", f"{architecture.name}-{exporter}")
    process = context.Process(target=_child, args=(architecture, exporter, folder, targets, sender))
    start = time.perf_counter()
    process.start()
    sender.close()
    row = None
    if receiver.poll(10 * SECONDS):
        try:
            row = receiver.recv()
        except EOFError:
            process.join(10)
            row = Row(architecture.name, exporter, "error", f"the process ended with {process.exitcode}")
    else:
        process.kill()
        row = Row(architecture.name, exporter, "error", f"no answer in {10 * SECONDS} s")
    process.join()
    return Row(**{**asdict(row), "seconds": round(time.perf_counter() - start, 1)})


def _child(architecture: Architecture, exporter: str, folder: Path, targets: Sequence[str], sender: Any) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        try:
            sender.send(one(architecture, exporter, folder, targets))
        except BaseException as error:
            traceback.print_exc()
            sender.send(Row(architecture.name, exporter, "error", f"{type(error).__name__}: {_line(error)}"))


def one(architecture: Architecture, exporter: str, folder: Path, targets: Sequence[str]) -> Row:
    """Exports, compiles and compares one model; everything lies in `folder` afterwards.

    Args:
        targets: beside the reference.
    """
    model = folder / "model.onnx"
    row = partial(Row, architecture.name, exporter)
    try:
        export(architecture, exporter, model)
    except Exception as error:
        traceback.print_exc()
        return row("export", f"{type(_first(error)).__name__}: {_line(_first(error))}")
    original = run_original(model, architecture)
    outputs = {name: list(value.shape[2:]) for name, value in original.items()}
    row = partial(row, outputs=outputs, targets=[REFERENCE.name, *targets])
    if not telling(original):
        return row("wrong", "every output is the same for all images")
    few, many = CALIBRATION
    found = _compiled(row, architecture, original, folder, targets, few)
    if found.outcome != NOISY:
        return found
    more = _compiled(row, architecture, original, folder, targets, many)
    if more.outcome == OK:
        return replace(more, reason=f"calibrated on {many} images; {found.quantized_db} dB on {few}")
    _, left = worst_output(original, run(model, architecture, pixel_noise=PIXEL_NOISE), architecture)
    return replace(more, reason=f"{more.reason}; noise of {PIXEL_NOISE:.0%} on the pixels alone leaves {left:.1f} dB")


def _compiled(
    row: Callable[..., Row],
    architecture: Architecture,
    original: Outputs,
    folder: Path,
    targets: Sequence[str],
    images: int,
) -> Row:
    """Compiles the exported file, calibrated on `images`, and compares what results with the `original` outputs."""
    model, data = folder / "model.onnx", folder / "calib.npz"
    batches = [architecture.inputs(seed) for seed in range(images)]
    arrays: dict[str, Any] = {n: np.concatenate([b[n] for b in batches]) for n in batches[0]}
    np.savez(data, **arrays)
    try:
        without = _compile_for(targets, model, folder, data)
    except QvitError as refusal:
        return row("wrong" if isinstance(refusal, CheckError) else "refused", _line(refusal))
    reached: dict[str, float] = {}
    for kind, least in LEAST_DB.items():
        found = run(folder / "bundle" / file_of(kind), architecture)
        shapes = {name: value.shape for name, value in found.items()}
        if shapes != {name: value.shape for name, value in original.items()}:
            return row("wrong", f"{kind}: outputs are {shapes}", without=without)
        worst, decibels = worst_output(original, found, architecture)
        reached[f"{'float' if kind == FLOAT else 'quantized'}_db"] = round(decibels, 1)
        if decibels < least:
            reason = f"{kind}: {worst} is {decibels:.1f} dB from the exported file"
            return row("wrong" if kind == FLOAT else NOISY, reason, without=without, **reached)
    return row(OK, without=without, **reached)


def export(architecture: Architecture, exporter: str, path: Path) -> None:
    """Writes the model as `path`, with a batch of one."""
    module, example = architecture.module(), architecture.inputs(0)
    tensors = tuple(torch.from_numpy(a) for a in example.values())
    *others, last = EXPORTERS[exporter]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        write = partial(
            torch.onnx.export, module, tensors, str(path), input_names=list(example),
            output_names=list(module.named(*tensors)), dynamo=exporter == "dynamo", external_data=False,
        )  # fmt: skip
        for opset in others:
            with suppress(torch.onnx.errors.UnsupportedOperatorError):
                write(opset_version=opset)
                break
        else:
            write(opset_version=last)
    onnx.checker.check_model(str(path))


def _compile_for(targets: Sequence[str], model: Path, folder: Path, data: Path) -> dict[str, str]:
    """Compiles `model` into `folder`/bundle for those of `targets` that accept it; returns why the others do not.

    Raises:
        QvitError: not even the reference accepts it.
    """
    try:
        return _compile(model, folder / "bundle", data, targets)
    except Exception:
        traceback.print_exc()
    _compile(model, folder / "bundle", data, [])
    without: dict[str, str] = {}
    for target in targets:
        try:
            without.update(_compile(model, folder / "bundle", data, [target]))
        except Exception as error:
            without[target] = f"{'' if isinstance(error, QvitError) else type(error).__name__ + ': '}{_line(error)}"
    return without


def _compile(model: Path, out: Path, data: Path, targets: Sequence[str]) -> dict[str, str]:
    """Compiles, and returns the targets that were left out with their reasons."""
    recipe = Recipe.load(
        None, effort="fast", uniform="w8a8", targets=tuple(targets), calibration_images=CALIBRATION[-1]
    )
    return dict(compile(str(model), out, calib=str(data), recipe=recipe, force=True).bundle.manifest.left_out)


def _first(error: BaseException) -> BaseException:
    """Returns the error that `error` was raised from, or itself."""
    return error if error.__cause__ is None else _first(error.__cause__)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    main()
