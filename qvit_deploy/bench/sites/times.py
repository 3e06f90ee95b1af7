"""Latency tables: the models of sites, timed in turn on the device at hand. Needs no torch where they are written
already."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from qvit_deploy.artifacts.engine_record import Batch, BuildRequest, read_engine
from qvit_deploy.artifacts.latency_table import SCHEMA, LatencyTable
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.bench.device.environment import environment
from qvit_deploy.bench.measure import Plan, medians_ms
from qvit_deploy.bench.sites.models import (
    INDEX,
    OVERHEAD,
    Asked,
    Index,
    read_index,
    require_asked,
    require_library,
    require_sites,
)
from qvit_deploy.bench.sites.write import write_site_models
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.targets.tensorrt.engine.build import build_engine
from qvit_deploy.targets.tensorrt.engine.gpu import require_gpu
from qvit_deploy.targets.tensorrt.engine.kind import engine_kind

TIMEOUT_SECONDS = 600.0
"""Of the build of one engine."""


def site_table(
    bundle: Path, plan: Plan, asked: Asked, folder: Path | None = None, progress: Progress | None = None
) -> LatencyTable:
    """Milliseconds of every site of the bundle, at every width asked for.

    Args:
        folder: of the models that are timed. One with an index is used as it is; else they are written there (or, with
            None, to a temporary folder), which needs the compile half.

    Raises:
        InputError: what is asked for cannot be timed here, or the folder holds something else; see also
            `write_site_models` and `latency_table`.
    """
    asked.where.require_timing(f"--sites --target {asked.target}")
    missing = [p for p in asked.plugins if not p.is_file()]
    if missing:
        raise InputError(f"no plugin library at {missing[0]}")
    with tempfile.TemporaryDirectory() as temporary:
        models = folder or Path(temporary)
        if (models / INDEX).exists():
            index = read_index(models)
            require_asked(models, index, asked)
            require_sites(bundle, models, index)
        else:
            index = write_site_models(bundle, models, asked)
        require_library(models, index, asked)
        return latency_table(models, index, plan, asked.plugins, progress)


def latency_table(
    folder: Path, index: Index, plan: Plan, plugins: tuple[Path, ...] = (), progress: Progress | None = None
) -> LatencyTable:
    """Times the models in `folder`, all in turn in the same processes; for a TensorRT the engines built of them.

    A site's time is the median of its blocks less that of a model that does nothing, or of the LayerNorm in front.

    Args:
        plugins: libraries that the engines call.

    Raises:
        InputError: a model cannot be run here, or no engine can be built of it.
    """
    if TARGETS[index.target].on_gpu:
        with tempfile.TemporaryDirectory() as temporary:
            gpu = require_gpu(f"--sites --target {index.target}")
            sm = None if engine_kind(index.target).on_device else gpu.sm
            engines = build_site_engines(folder, index, Path(temporary), sm, plugins, progress)
            version = read_engine(engines[OVERHEAD]).build.version
            taken = _taken(index, engines, plan, progress)
        return _table(index, taken, gpu.name, _engine_fingerprint(index, version, plugins))
    taken = _taken(index, {name: folder / name for name in index.files}, plan, progress)
    where = environment()
    device = where.board or where.cpu
    how = f"{index.target} {where.versions.get(index.target, 'unknown')}; {plan.threads} threads"
    fingerprint = "; ".join([device, how, *([where.power_mode] if where.power_mode else [])])
    return _table(index, taken, device, fingerprint)


def build_site_engines(
    folder: Path,
    index: Index,
    to: Path,
    sm: int | None,
    plugins: tuple[Path, ...] = (),
    progress: Progress | None = None,
) -> dict[str, Path]:
    """File of `folder` -> its engine in `to`, each built in a process of its own.

    Args:
        sm: compute capability of `tensorrt-rtx`; None builds for the GPU at hand.

    Raises:
        InputError: there is no engine of a model; names its site.
    """
    engines = {}
    with Stopwatch(progress).stage("build", len(index.files)) as advance:
        for name, what in index.files.items():
            engines[name] = to / f"{Path(name).stem}.engine"
            try:
                request = BuildRequest(
                    target=index.target,
                    onnx=folder / name,
                    engine=engines[name],
                    sm=sm,
                    batch=_sizes(folder / name),
                    plugins=plugins,
                )
                build_engine(request, timeout=TIMEOUT_SECONDS)
            except (InputError, CheckError) as error:
                raise InputError(f"{what}: {error}") from error
            advance(1)
    return engines


def _sizes(path: Path) -> Batch:
    """The first dimensions of the model's inputs, which are all fixed: an engine's record bounds them."""
    try:
        inputs = onnx.load(str(path), load_external_data=False).graph.input
    except Exception as error:  # protobuf raises its own types
        raise InputError(f"{path} cannot be read as ONNX: {str(error).splitlines()[0]}") from error
    first = [value.type.tensor_type.shape.dim[0].dim_value for value in inputs if value.type.tensor_type.shape.dim]
    if not first or min(first) < 1:
        raise InputError(f"{path} is not the model of a site: its inputs' sizes are not fixed")
    return Batch(least=min(first), best=max(first), most=max(first))


def _taken(index: Index, files: dict[str, Path], plan: Plan, progress: Progress | None) -> dict[str, float]:
    """Milliseconds of each file, less those of its baseline."""
    whole = dict(zip(files, medians_ms(list(files.values()), plan, progress), strict=True))
    # A site cannot take no time, but may take less than what a run's own cost varies by.
    least = whole[OVERHEAD] / 100
    return {name: max(t - whole[index.baselines.get(name, OVERHEAD)], least) for name, t in whole.items()}


def _table(index: Index, taken: dict[str, float], device: str, fingerprint: str) -> LatencyTable:
    return LatencyTable(
        schema=SCHEMA,
        device=device,
        fingerprint=fingerprint,
        batch_size=index.batch,
        sites={site: {w: taken[name] for w, name in widths.items()} for site, widths in index.sites.items()},
    )


def _engine_fingerprint(index: Index, version: str, plugins: tuple[Path, ...]) -> str:
    """The GPU with its driver, clocks and power mode, as far as they are known; TensorRT, the file that the models
    follow and the plugin libraries."""
    where = environment()
    libraries = [f"{p.name} {FileRecord.of_file(p).sha256[:12]}" for p in plugins]
    known = [where.board, where.gpu, where.gpu_clocks, where.power_mode]
    return "; ".join([*(k for k in known if k), f"{index.target} {version}", index.file_for, *libraries])
