"""One run of `qvit-deploy bench`: measures a bundle, an ONNX file or an engine; needs no torch."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import onnx_ir as ir
from pydantic import BaseModel

from qvit_deploy.artifacts.atomic import make_folder, write_file
from qvit_deploy.artifacts.bundle import MEASUREMENTS, Bundle, read_bundle
from qvit_deploy.artifacts.manifest import MANIFEST
from qvit_deploy.artifacts.measurement import Measurement, Quality
from qvit_deploy.artifacts.opening import artifact_at, inputs_for_data, model_at, preprocess_of
from qvit_deploy.bench.measure import File, MeasureOptions, measure
from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.opening import open_examples
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.progress import Progress
from qvit_deploy.targets.registry import REFERENCE, TARGETS, runtime_of
from qvit_deploy.targets.run_values import write_run_values
from qvit_deploy.targets.session import open_model
from qvit_deploy.targets.target import FLOAT, file_of

ELSEWHERE = "; choose another file with -o"
DEFAULT_TARGET = REFERENCE.name


def benchmark(
    path: Path,
    options: MeasureOptions,
    *,
    target: str = DEFAULT_TARGET,
    against: Path | None = None,
    data: str | None = None,
    preprocess: Preprocess | None = None,
    profiled: bool = True,
    progress: Progress | None = None,
) -> Measurement:
    """Measures the bundle, .onnx file or engine at `path`.

    Args:
        target: the target whose file of a bundle, or engine built from it, is measured (`Target.measured_file`); for
            both sides.
        against: another bundle or file, whose blocks alternate with those of the first.
        data: labelled images for top-1 and agreement of both sides; the first of them are what is run.
        preprocess: how they are prepared, for a lone ONNX file.
        profiled: whether to profile both sides too.

    Raises:
        InputError: a file cannot be run here.
        BundleError: a bundle is damaged.
    """
    sides = [path] if against is None else [path, against]
    files = [_file(side, target, options.batch) for side in sides]
    if data is not None and not all(runtime_of(f.path).evaluates for f in files):
        raise InputError(
            "--data: bench takes top-1 of ONNX files only; build --data compares an engine with its ONNX file"
        )
    with tempfile.TemporaryDirectory() as folder:
        if data is not None:
            files = [
                replace(file, values=_values(Path(folder) / f"{i}.npz", side, file.path, data, preprocess, options))
                for i, (side, file) in enumerate(zip(sides, files, strict=True))
            ]
        measurement = measure(files[0], files[1] if against else None, options, profiled, progress)
    if data is None:
        return measurement
    quality = []
    for side in sides:
        result = evaluate(side, data, preprocess=preprocess, target=target, threads=options.threads, progress=progress)
        quality.append(Quality(top1=result.top1, agreement=result.agreement, n=result.n))
    other = measurement.against and measurement.against.model_copy(update={"quality": quality[-1]})
    return measurement.model_copy(update={"quality": quality[0], "against": other})


def _values(
    to: Path, side: Path, file: Path, data: str, preprocess: Preprocess | None, options: MeasureOptions
) -> Path:
    """Writes the values of one run on the first examples of DATA to `to`, and returns that. Raises InputError."""
    model, session = model_at(side), open_model(file, options.threads)
    inputs = inputs_for_data(model, session.inputs)
    batch = session.static_batch or options.batch or 1
    examples = open_examples(data, inputs, preprocess_of(model, preprocess), f"{side}", limit=batch, split="test")
    write_run_values(to, inputs, examples, batch)
    return to


def save(measurement: Measurement, path: Path, out: Path | None) -> Path | None:
    """Writes the measurement to `out`, or else into the bundle at `path`, and returns where.

    That of a lone file is not written without `out`; the result is None then.

    Raises:
        InputError: it cannot be written.
    """
    if out is None and not path.is_dir():
        return None
    settings = measurement.settings
    threads = "" if settings.threads is None else f".threads{settings.threads}"
    name = f"{Path(measurement.file.name).stem}.batch{settings.batch}{threads}.{stamp()}.json"
    return write_record(out or path / MEASUREMENTS / name, measurement)


def stamp() -> str:
    """Returns the time (UTC) for the name of a file."""
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def write_record(place: Path, content: BaseModel) -> Path:
    """Writes a measurement or a table to `place` and returns that; creates its folder if need be. Raises InputError."""
    require_writable(place)
    write_file(place, content.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode() + b"\n", ELSEWHERE)
    return place


def require_writable(out: Path) -> Path:
    """Returns `out` after creating its folder if need be. Raises InputError early, before minutes of measuring."""
    make_folder(out.parent, ELSEWHERE)
    if not os.access(out.parent, os.W_OK | os.X_OK) or out.is_dir():
        raise InputError(f"{out} cannot be written: it is a folder, or its folder is read-only; choose another with -o")
    return out


def _file(path: Path, target: str, batch: int | None) -> File:
    bundle = artifact_at(path)
    if not isinstance(bundle, Bundle):
        return File(path, sites=() if runtime_of(path).evaluates else sites_of(path))
    chosen = TARGETS.get(target)
    file = bundle.path_of(file_of(target)) if chosen is None else chosen.measured_file(bundle, batch)
    if runtime_of(file).evaluates:
        return File(file, _attention(bundle))
    return File(file, sites=tuple(s.name for s in bundle.manifest.sites))


def sites_of(engine: Path) -> tuple[str, ...]:
    """Returns the names of the sites of the bundle that holds the engine; () if none does."""
    root = engine.absolute().parent.parent
    if not (root / MANIFEST).exists():
        return ()
    return tuple(s.name for s in read_bundle(root, verify=False).manifest.sites)


def _attention(bundle: Bundle) -> dict[str, str]:
    """Returns output tensor -> site, for the attention products that are sites.

    Tensors are named as in the float model, and the other files have the same names.
    """
    names = {s.name for s in bundle.manifest.sites if s.kind.startswith("matmul_") and s.w_bits is not None}
    if not names or file_of(FLOAT) not in bundle.manifest.files:
        return {}
    graph = Graph(ir.load(bundle.path_of(file_of(FLOAT))), FLOAT)
    return {tensor: s.name for s in find_sites(graph) if s.name in names for tensor in (s.product, s.output)}
