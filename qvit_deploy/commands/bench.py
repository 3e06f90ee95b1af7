"""Latency of a bundle, an ONNX file or an engine, where it stands; needs no torch."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

import onnx_ir as ir
from pydantic import BaseModel

from qvit_deploy.artifacts.atomic import make_folder, write_file
from qvit_deploy.artifacts.bundle import Bundle, read_bundle
from qvit_deploy.artifacts.latency_table import LatencyTable
from qvit_deploy.artifacts.manifest import MANIFEST
from qvit_deploy.artifacts.measurement import Measurement, Quality
from qvit_deploy.artifacts.opening import artifact_at
from qvit_deploy.bench.measure import File, Plan, measure
from qvit_deploy.bench.trtexec import Recording, read_trtexec
from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.progress import Progress
from qvit_deploy.targets.registry import REFERENCE, TARGETS, runtime_of
from qvit_deploy.targets.target import FLOAT, file_of

FOLDER = "measurements"
ELSEWHERE = "; choose another file with -o"
DEFAULT_TARGET = REFERENCE.name


def benchmark(
    path: Path,
    plan: Plan,
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
        target: which of a bundle's models, for both sides, or the engine built from it (`Target.measured_file`).
        against: another bundle or file to take in turn with it.
        data: DATA for top-1 and agreement, of both sides.

    Raises:
        InputError: nothing there can be run here.
        BundleError: a bundle is damaged.
    """
    sides = [path] if against is None else [path, against]
    files = [_file(side, target, plan.batch) for side in sides]
    if data is not None and not all(runtime_of(f.path).evaluates for f in files):
        raise InputError(
            "--data: bench takes top-1 of ONNX files only; build --data compares an engine with its ONNX file"
        )
    found = measure(files[0], files[1] if against else None, plan, profiled, progress)
    if data is None:
        return found
    quality = []
    for side in sides:
        result = evaluate(side, data, preprocess=preprocess, target=target, threads=plan.threads, progress=progress)
        quality.append(Quality(top1=result.top1, agreement=result.agreement, n=result.n))
    other = found.against and found.against.model_copy(update={"quality": quality[-1]})
    return found.model_copy(update={"quality": quality[0], "against": other})


def from_trtexec(recording: Recording, path: Path, plan: Plan) -> Measurement:
    """trtexec's recording of the engine `path`. An engine inside a bundle has the bundle's sites. Raises InputError."""
    if not path.is_file():
        raise InputError(f"no engine at {path}: name the file that trtexec ran")
    return read_trtexec(recording, path, plan.batch or 1, _sites(path))


def save(measurement: Measurement, path: Path, out: Path | None) -> Path | None:
    """Writes the measurement to `out`, else into the bundle at `path`; a lone file's is not kept.

    Raises:
        InputError: it cannot be written.
    """
    if out is None and not path.is_dir():
        return None
    how = measurement.settings
    threads = "" if how.threads is None else f".threads{how.threads}"
    kept = f"{Path(measurement.file.name).stem}.batch{how.batch}{threads}.{_stamp()}.json"
    return _write(out or path / FOLDER / kept, measurement)


def save_table(table: LatencyTable, path: Path, target: str, out: Path | None) -> Path:
    """Writes the table to `out`, else into the bundle at `path`. Raises InputError."""
    return _write(out or path / FOLDER / f"sites.{target}.batch{table.batch_size}.{_stamp()}.json", table)


def _stamp() -> str:
    return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")


def _write(place: Path, content: BaseModel) -> Path:
    require_writable(place)
    write_file(place, content.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode() + b"\n", ELSEWHERE)
    return place


def require_writable(out: Path) -> Path:
    """`out`, its folder made if need be; for failing before minutes of measuring. Raises InputError."""
    make_folder(out.parent, ELSEWHERE)
    if not os.access(out.parent, os.W_OK | os.X_OK) or out.is_dir():
        raise InputError(f"{out} cannot be written: it is a folder, or its folder is read-only; choose another with -o")
    return out


def _file(path: Path, target: str, batch: int | None) -> File:
    bundle = artifact_at(path)
    if not isinstance(bundle, Bundle):
        return File(path, sites=() if runtime_of(path).evaluates else _sites(path))
    chosen = TARGETS.get(target)
    file = bundle.path_of(file_of(target)) if chosen is None else chosen.measured_file(bundle, batch)
    if runtime_of(file).evaluates:
        return File(file, _attention(bundle))
    return File(file, sites=tuple(s.name for s in bundle.manifest.sites))


def _sites(engine: Path) -> tuple[str, ...]:
    """The sites of the bundle that the engine lies in, if it does."""
    root = engine.absolute().parent.parent
    if not (root / MANIFEST).exists():
        return ()
    return tuple(s.name for s in read_bundle(root, verify=False).manifest.sites)


def _attention(bundle: Bundle) -> dict[str, str]:
    """Output tensor -> site of the attention products that are sites, by the float model: the others keep its names."""
    names = {s.name for s in bundle.manifest.sites if s.kind.startswith("matmul_")}
    if not names or file_of(FLOAT) not in bundle.manifest.files:
        return {}
    graph = Graph(ir.load(bundle.path_of(file_of(FLOAT))), FLOAT)
    return {tensor: s.name for s in find_sites(graph) if s.name in names for tensor in (s.product, s.output)}
