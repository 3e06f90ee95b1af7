"""Measures latency tables: times the models of sites on the device at hand. Needs torch only to write the models."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from qvit_deploy.artifacts.engine_record import Batch, BuildRequest, read_engine
from qvit_deploy.artifacts.latency_table import SCHEMA, LatencyTable
from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.bench.device.environment import environment
from qvit_deploy.bench.measure import MeasureOptions, medians_ms
from qvit_deploy.bench.sites.models import (
    INDEX,
    OVERHEAD,
    Index,
    SiteModelRequest,
    read_index,
    require_library,
    require_requested,
    require_sites,
)
from qvit_deploy.bench.sites.write import write_site_models
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.targets.tensorrt.engine.builder.build_engine import build_engine
from qvit_deploy.targets.tensorrt.engine.gpu import require_gpu
from qvit_deploy.targets.tensorrt.engine.kind import engine_kind

TIMEOUT_SECONDS = 600.0
"""Limit of the build of one engine."""


def site_table(
    bundle: Path,
    options: MeasureOptions,
    request: SiteModelRequest,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> LatencyTable:
    """Returns milliseconds of every site of the bundle at every width of the request.

    Args:
        folder: of the models that are timed. Models that it holds are reused; else they are written there (or, with
            None, to a temporary folder), which needs the compile half.

    Raises:
        InputError: the request cannot be timed here, or does not fit the models in the folder; see also
            `write_site_models` and `latency_table`.
    """
    request.target_value.require_timing(f"bench-sites --target {request.target}")
    missing = [p for p in request.plugins if not p.is_file()]
    if missing:
        raise InputError(f"no plugin library at {missing[0]}")
    with tempfile.TemporaryDirectory() as temporary:
        models = folder or Path(temporary)
        if (models / INDEX).exists():
            index = read_index(models)
            require_requested(models, index, request)
            require_sites(bundle, models, index)
        else:
            index = write_site_models(bundle, models, request)
        require_library(models, index, request)
        return latency_table(models, index, options, request.plugins, progress)


def latency_table(
    folder: Path,
    index: Index,
    options: MeasureOptions,
    plugins: tuple[Path, ...] = (),
    progress: Progress | None = None,
) -> LatencyTable:
    """Times the models in `folder`, or for a TensorRT the engines built from them, alternating in the same processes.

    A site's time is the median of its blocks minus that of a model that does nothing, or of the LayerNorm in front.

    Args:
        plugins: plugin libraries that the engines call.

    Raises:
        InputError: a model cannot be run here, or no engine can be built from it.
    """
    if TARGETS[index.target].on_gpu:
        with tempfile.TemporaryDirectory() as temporary:
            gpu = require_gpu(f"bench-sites --target {index.target}")
            sm = None if engine_kind(index.target).on_device else gpu.sm
            engines = build_site_engines(folder, index, Path(temporary), sm, plugins, progress)
            version = read_engine(engines[OVERHEAD]).build.version
            times = _site_times(index, engines, options, progress)
        return _table(index, times, gpu.name, _engine_fingerprint(index, version, plugins))
    times = _site_times(index, {name: folder / name for name in index.files}, options, progress)
    machine = environment()
    device = machine.board or machine.cpu
    runtime = f"{index.target} {machine.versions.get(index.target, 'unknown')}; {options.threads} threads"
    fingerprint = "; ".join([device, runtime, *([machine.power_mode] if machine.power_mode else [])])
    return _table(index, times, device, fingerprint)


def build_site_engines(
    folder: Path,
    index: Index,
    to: Path,
    sm: int | None,
    plugins: tuple[Path, ...] = (),
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Builds the engines of the models in `folder`; returns file -> engine in `to`.

    Args:
        sm: compute capability for `tensorrt-rtx`; None builds for the GPU at hand.

    Raises:
        InputError: an engine cannot be built; names the site of its model.
    """
    engines = {}
    with Stopwatch(progress).stage("build", len(index.files)) as advance:
        for name, description in index.files.items():
            engines[name] = to / f"{Path(name).stem}.engine"
            try:
                request = BuildRequest(
                    target=index.target,
                    onnx=folder / name,
                    engine=engines[name],
                    sm=sm,
                    batch=_batch(folder / name),
                    plugins=plugins,
                )
                build_engine(request, timeout=TIMEOUT_SECONDS)
            except (InputError, CheckError) as error:
                raise InputError(f"{description}: {error}") from error
            advance(1)
    return engines


def _batch(path: Path) -> Batch:
    """Returns a batch that covers the first dimensions of the model's inputs, all of which must be fixed."""
    try:
        inputs = onnx.load(str(path), load_external_data=False).graph.input
    except Exception as error:  # protobuf raises its own types
        raise InputError(f"{path} cannot be read as ONNX: {str(error).splitlines()[0]}") from error
    first = [value.type.tensor_type.shape.dim[0].dim_value for value in inputs if value.type.tensor_type.shape.dim]
    if not first or min(first) < 1:
        raise InputError(f"{path} is not the model of a site: its inputs' sizes are not fixed")
    return Batch(least=min(first), best=max(first), most=max(first))


def _site_times(
    index: Index, files: dict[str, Path], options: MeasureOptions, progress: Progress | None
) -> dict[str, float]:
    """Returns milliseconds of each file minus those of its baseline."""
    medians = dict(zip(files, medians_ms(list(files.values()), options, progress), strict=True))
    # A site takes some time, but that may be less than the overhead of a run varies by.
    least = medians[OVERHEAD] / 100
    return {name: max(t - medians[index.baselines.get(name, OVERHEAD)], least) for name, t in medians.items()}


def _table(index: Index, times: dict[str, float], device: str, fingerprint: str) -> LatencyTable:
    return LatencyTable(
        schema=SCHEMA,
        device=device,
        fingerprint=fingerprint,
        batch_size=index.batch,
        sites={site: {w: times[name] for w, name in widths.items()} for site, widths in index.sites.items()},
    )


def _engine_fingerprint(index: Index, version: str, plugins: tuple[Path, ...]) -> str:
    """Returns the GPU, its clocks and power mode as far as known, TensorRT, the target of the files and the plugins."""
    machine = environment()
    libraries = [f"{p.name} {FileRecord.of_file(p).sha256[:12]}" for p in plugins]
    device = [machine.board, machine.gpu, machine.gpu_clocks, machine.power_mode]
    return "; ".join([*(part for part in device if part), f"{index.target} {version}", index.file_for, *libraries])
