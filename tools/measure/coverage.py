"""Compiles small random models of the architectures that people deploy, and prints what became of each as a table.

Every model is exported by torch's two exporters, compiled at w8a8 for all targets, and each output of the bundle's
float file and quantized file is compared with the exported file in ONNX Runtime, on examples that the compile did not
see. A row that fails stays in the table with its reason.

    pip install transformers
    python -m tools.measure.coverage WORK [--only segformer] [--exporter torchscript] [--jobs 2] [--markdown table.md]

Results are kept in WORK/results.jsonl, one line per row; a row that is there is not compiled again without `--again`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from rich.console import Console
from rich.progress import track

from qvit_deploy.errors import QvitError
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.registry import REFERENCE, TARGETS
from qvit_deploy.targets.target import FLOAT, file_of
from qvit_deploy.tasks.metrics import sqnr_db
from tools.measure.architectures.architecture import Architecture

EXPORTERS = {"torchscript": 17, "dynamo": 20}
"""Exporter -> opset that it is asked for."""

LEAST_DB = {FLOAT: 60.0, REFERENCE.name: 15.0}
"""What each file must reach on its worst output: float noise aside the float file is the model, and random weights
quantize worse than trained ones."""

CALIBRATION, EXAMPLES = 16, 4
SECONDS = 300


@dataclass(frozen=True)
class Row:
    """What became of one export of one architecture.

    Attributes:
        outcome: `ok`, `export` (the exporter failed), `refused` (one clear line), `wrong` (an output is too far from
            the exported file's) or `error` (a traceback or a process that died).
        reason: one line, empty for `ok`.
        float_db, quantized_db: of the worst output, against the exported file.
        without: targets that refuse the model, with the reason of each.
    """

    name: str
    exporter: str
    outcome: str
    reason: str = ""
    float_db: float | None = None
    quantized_db: float | None = None
    without: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", action="append", default=[], help="rows whose name contains this")
    parser.add_argument("--exporter", choices=EXPORTERS, action="append", help="default: both")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time, of one thread each")
    parser.add_argument("--again", action="store_true", help="compile rows again that are in WORK")
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
    missing = [(a, e) for a, e in wanted if arguments.again or (a.name, e) not in rows]
    with ThreadPoolExecutor(arguments.jobs) as pool, kept.open("a") as results:
        jobs = [pool.submit(in_process, a, e, work) for a, e in missing]
        for job in track(as_completed(jobs), "compile", len(jobs), console=Console(stderr=True)):
            row = job.result()
            rows[row.name, row.exporter] = row
            print(json.dumps(asdict(row)), file=results, flush=True)
    shown = [rows[a.name, e] for a, e in wanted]
    text = "\n".join(table(shown))
    print(text)
    if arguments.markdown is not None:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")


def architectures() -> list[Architecture]:
    """Returns the rows of the table: timm's families, then the towers and dense models of transformers."""
    from tools.measure.architectures import dense, timm_families, towers

    return [*timm_families.architectures(), *towers.architectures(), *dense.architectures()]


def read(path: Path) -> Iterator[Row]:
    """Yields the rows of a results file; a later line of a row takes the place of an earlier one."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield Row(**json.loads(line))


def in_process(architecture: Architecture, exporter: str, work: Path) -> Row:
    """Makes the row in a process of its own: a library that crashes or hangs costs one row."""
    context = multiprocessing.get_context("fork")  # the libraries are loaded once
    receiver, sender = context.Pipe(duplex=False)
    folder = work / re.sub(r"\W+", "-", f"{architecture.name}-{exporter}")
    process = context.Process(target=_child, args=(architecture, exporter, folder, sender))
    start = time.perf_counter()
    process.start()
    sender.close()
    row = None
    if receiver.poll(SECONDS):
        try:
            row = receiver.recv()
        except EOFError:
            process.join(10)
            row = Row(architecture.name, exporter, "error", f"the process ended with {process.exitcode}")
    else:
        process.kill()
        row = Row(architecture.name, exporter, "error", f"no answer in {SECONDS} s")
    process.join()
    return Row(**{**asdict(row), "seconds": round(time.perf_counter() - start, 1)})


def _child(architecture: Architecture, exporter: str, folder: Path, sender: Any) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sys.stdout = sys.stderr = log
        try:
            sender.send(one(architecture, exporter, folder))
        except BaseException as error:
            traceback.print_exc()
            sender.send(Row(architecture.name, exporter, "error", f"{type(error).__name__}: {_line(error)}"))


def one(architecture: Architecture, exporter: str, folder: Path) -> Row:
    """Exports, compiles and compares one model; everything lies in `folder` afterwards."""
    name = architecture.name
    model = folder / "model.onnx"
    try:
        export(architecture, exporter, model)
    except Exception as error:
        traceback.print_exc()
        return Row(name, exporter, "export", f"{type(error).__name__}: {_line(error)}")
    data = folder / "calib.npz"
    batches = [architecture.inputs(seed) for seed in range(CALIBRATION)]
    arrays: dict[str, Any] = {n: np.concatenate([b[n] for b in batches]) for n in batches[0]}
    np.savez(data, **arrays)
    others = [t for t in TARGETS if t != REFERENCE.name]
    without: dict[str, str] = {}
    try:
        _compile(model, folder / "bundle", data, others)
    except Exception as error:
        traceback.print_exc()
        try:
            _compile(model, folder / "bundle", data, [])
        except QvitError as refusal:
            return Row(name, exporter, "refused", _line(refusal))
        without = dict(_refusing(model, folder, data, others)) or {"all together": _line(error)}
    original = run(model, architecture)
    reached = {}
    for kind, least in LEAST_DB.items():
        found = run(folder / "bundle" / file_of(kind), architecture)
        if list(found) != list(original):
            return Row(name, exporter, "wrong", f"{kind}: outputs {list(found)} in place of {list(original)}")
        for output, value in original.items():
            if found[output].shape != value.shape:
                return Row(name, exporter, "wrong", f"{kind}: {output} is {found[output].shape}, was {value.shape}")
        decibels = {o: sqnr_db(v, found[o]) for o, v in original.items() if v.dtype.kind == "f"}
        worst = min(decibels, key=lambda o: decibels[o])
        reached[kind] = round(decibels[worst], 1)
        if reached[kind] < least:
            return Row(
                name, exporter, "wrong", f"{kind}: {worst} is {reached[kind]} dB from the exported file",
                reached.get(FLOAT), reached.get(REFERENCE.name), without,
            )  # fmt: skip
    return Row(name, exporter, "ok", "", reached[FLOAT], reached[REFERENCE.name], without)


def export(architecture: Architecture, exporter: str, path: Path) -> None:
    """Writes the model as `path`, with a batch of one."""
    module, example = architecture.module(), architecture.inputs(0)
    tensors = tuple(torch.from_numpy(a) for a in example.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tensors, str(path), input_names=list(example), opset_version=EXPORTERS[exporter],
            dynamo=exporter == "dynamo", external_data=False,
        )  # fmt: skip
    onnx.checker.check_model(str(path))


def _compile(model: Path, out: Path, data: Path, targets: Sequence[str]) -> None:
    recipe = Recipe.load(None, effort="fast", uniform="w8a8", targets=tuple(targets), calibration_images=CALIBRATION)
    compile(str(model), out, calib=str(data), recipe=recipe, force=True)


def _refusing(model: Path, folder: Path, data: Path, targets: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the targets that refuse the model alone, with their reasons."""
    for target in targets:
        try:
            _compile(model, folder / "alone", data, [target])
        except Exception as error:
            yield target, f"{'' if isinstance(error, QvitError) else type(error).__name__ + ': '}{_line(error)}"


def run(model: Path, architecture: Architecture) -> dict[str, np.ndarray]:
    """Runs a file in ONNX Runtime on examples that calibration did not see; output name -> [examples, ...]."""
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    runs = []
    for seed in range(1000, 1000 + EXAMPLES):
        given = architecture.inputs(seed)
        feeds = {n: given.get(n, given[architecture.image]) for n in names}
        runs.append(session.run(None, feeds))
    outputs = [o.name for o in session.get_outputs()]
    return {name: np.stack([np.asarray(r[i]) for r in runs]) for i, name in enumerate(outputs)}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def table(rows: Sequence[Row]) -> list[str]:
    """Returns the table in Markdown, and the counts under it."""
    lines = [
        "| architecture | exporter | outcome | float file, dB | w8a8, dB | reason, or targets that refuse |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        decibels = ["" if d is None else f"{d:.0f}" for d in (row.float_db, row.quantized_db)]
        reason = row.reason or "; ".join(f"{target}: {why}" for target, why in row.without.items())
        lines.append(f"| {row.name} | {row.exporter} | {row.outcome} | {' | '.join(decibels)} | {_cell(reason)} |")
    outcomes = {outcome: sum(r.outcome == outcome for r in rows) for outcome in dict.fromkeys(r.outcome for r in rows)}
    return [*lines, "", ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) + f" of {len(rows)}"]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")[:160]


if __name__ == "__main__":
    main()
