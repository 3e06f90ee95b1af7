"""One run of `qvit-deploy build`: engines of a bundle's models or of a lone ONNX file; needs no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import onnx as onnx_file

from qvit_deploy.artifacts.engine_record import (
    Batch,
    BuildOptions,
    BuildRequest,
    EngineRecord,
    Hardware,
    read_engine,
    record_path,
)
from qvit_deploy.artifacts.opening import inputs_for_data, model_at, preprocess_of
from qvit_deploy.commands.model_task import model_task
from qvit_deploy.data.opening import open_examples
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.graph.examples import Examples, concatenated
from qvit_deploy.graph.synthetic import noise
from qvit_deploy.lint.tensorrt_versions import PLUGIN_WINS
from qvit_deploy.progress import Progress
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime
from qvit_deploy.targets.tensorrt.engine.builder.build_engine import build_engine
from qvit_deploy.targets.tensorrt.engine.builder.plugin_build import build_plugin
from qvit_deploy.targets.tensorrt.engine.builder.trtexec import check_version, trtexec_commands
from qvit_deploy.targets.tensorrt.engine.files import bare_file, engine_files
from qvit_deploy.targets.tensorrt.engine.gpu import find_gpu
from qvit_deploy.targets.tensorrt.engine.kind import ON_DEVICE, engine_kind
from qvit_deploy.targets.tensorrt.engine.run.check import (
    EngineCheck,
    check_outputs,
    expose_codes,
    first_difference,
    products,
)
from qvit_deploy.targets.tensorrt.engine.run.engine_runner import EngineRunner, load
from qvit_deploy.targets.tensorrt.engine.run.layer_info import EngineLayers, engine_layers, read_layers
from qvit_deploy.tasks.task import Task

Result = TypeVar("Result")

CHECKED_IMAGES = 32


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built.

    Attributes:
        check: comparison of its logits with ONNX Runtime's; None where its GPU is not at hand.
        layers: the kernel of every site; None where they were not described.
        slow: a sentence for every site that does not run as it was emitted.
    """

    path: Path
    record: EngineRecord
    check: EngineCheck | None = None
    layers: EngineLayers | None = None
    slow: tuple[str, ...] = ()


def build_options(
    *,
    batch: str | None = None,
    plugins: Sequence[Path] = (),
    hardware: str = "none",
    timing_cache: Path | None = None,
    workspace_mb: int | None = None,
) -> BuildOptions:
    """Returns the options of a build that the flags name.

    Args:
        batch: MIN:OPT:MAX or one number; None for 1.
        hardware: a value of `Hardware`.

    Raises:
        InputError: a flag has no such value.
    """
    level = next((known for known in get_args(Hardware) if known == hardware), None)
    if level is None:
        raise InputError(f"--hardware {hardware!r} is not one of {', '.join(get_args(Hardware))}")
    return BuildOptions(
        batch=Batch() if batch is None else Batch.parse(batch),
        plugins=tuple(plugins),
        hardware=level,
        timing_cache=timing_cache,
        workspace_mb=workspace_mb,
    )


def require_flags(
    target: str, *, sms: Sequence[int], trtexec: bool, trt_version: str | None, compile_plugin: bool
) -> None:
    """Raises InputError if flags of `build` do not go together, or if no library builds engines for `target`."""
    kind = engine_kind(target)
    if compile_plugin and (not kind.takes_plugins or trtexec):
        raise InputError(
            "--compile-plugin goes with --target tensorrt, without --trtexec: it is for the machine it runs on"
        )
    if trtexec and (not kind.on_device or sms):
        raise InputError("--trtexec goes with --target tensorrt, without --sm")
    if trt_version is not None and not trtexec:
        raise InputError("--trt-version goes with --trtexec; a build uses the installed TensorRT")


def build(
    path: Path,
    target: str,
    options: BuildOptions = BuildOptions(),  # noqa: B008 - it is frozen
    *,
    file_for: str | None = None,
    sms: tuple[int, ...] = (),
    out: Path | None = None,
    timeout: float = 600.0,
    force: bool = False,
    compile_plugin: bool = False,
    keep_slow: bool = False,
    data: str | None = None,
    preprocess: Preprocess | None = None,
    progress: Progress | None = None,
) -> tuple[BuiltEngine, ...]:
    """Builds an engine of the bundle or .onnx file at `path` for every one of `sms`.

    Args:
        target, file_for, out: see `engine_files`.
        sms: compute capabilities; () for that of the GPU at hand.
        timeout: seconds each engine may take.
        compile_plugin: compile the plugin library first, and use it.
        keep_slow: keep an engine some of whose sites do not run as emitted: on int8, fused, or in a plugin.
        data: images on which the engine, where it can run, is compared with ONNX Runtime; noise when None.
        preprocess: how they are prepared, for a lone ONNX file.

    Raises:
        InputError: the model, the library, the GPU or a flag cannot be used; engines built before it stay.
        BundleError: the bundle is damaged, or was not compiled for this target.
        CheckError: a build died or took too long, or the engine does not compute what the model computes.
    """
    kind = engine_kind(target)
    kind.require_options(sms, options)
    if compile_plugin:
        library = build_plugin(progress=progress).path
        options = options.model_copy(update={"plugins": (*options.plugins, library)})
    onnx, engines = engine_files(path, target, options, file_for, sms, out)
    built = []
    for sm, engine in zip(sms or (None,), engines, strict=True):
        request = BuildRequest(
            **dict(options),
            target=target,
            onnx=onnx,
            engine=engine,
            sm=sm,
            layer_info=kind.layer_info(engine),
        )
        record = build_engine(request, timeout=timeout, force=force, progress=progress)
        if not _runs_here(record):
            built.append(BuiltEngine(engine, record))
            continue
        try:
            images = _images(path, onnx, record, data, preprocess)
            task = model_task(model_at(path), None)
            built.append(_checked(request, record, images, task, timeout, keep_slow))
        except BaseException:
            for file in (engine, record_path(engine)):
                file.unlink(missing_ok=True)  # an engine that failed, or was not checked, must not be deployed
            raise
    return tuple(built)


def _runs_here(record: EngineRecord) -> bool:
    """Returns whether to check the engine: always if it was built on this device, else if its GPU is at hand."""
    gpu = find_gpu()
    fits = gpu is not None and gpu.sm == record.build.sm
    return engine_kind(record.target).on_device or (fits and find_spec("pycuda") is not None)


def _checked(
    request: BuildRequest,
    record: EngineRecord,
    images: Examples[np.ndarray],
    task: Task,
    timeout: float,
    keep_slow: bool,
) -> BuiltEngine:
    """Compares the engine with its ONNX file, and finds the kernels of its sites. Raises CheckError."""
    layers, slow = None, list[str]()
    if request.layer_info is not None and request.layer_info.is_file():
        planned = products(request.onnx)
        layers = engine_layers(read_layers(request.layer_info.read_text(encoding="utf-8")), planned.quantized)
        slow = layers.failures(planned.attention, planned.plugins)
        if slow and not keep_slow:
            more = f" (and {len(slow) - 1} more)" if len(slow) > 1 else ""
            raise CheckError(
                f"the engine does not run as it was emitted: {slow[0]}{more}; {request.layer_info} has every layer, "
                "--keep-slow keeps the engine"
            )
    model = request.onnx.read_bytes()
    try:
        check = _run(
            request.engine, request.plugins, lambda r: check_outputs(r, model, images, request.batch.best, task)
        )
    except CheckError as error:
        raise CheckError(f"{error}; {_first_difference(request, model, images, timeout)}") from None
    return BuiltEngine(request.engine, record, check, layers, tuple(slow))


def _first_difference(request: BuildRequest, model: bytes, images: Examples[np.ndarray], timeout: float) -> str:
    """Returns a clause that names the first tensor that differs.

    It builds another engine, whose outputs are the codes of every quantizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        onnx, engine = Path(folder) / "probed.onnx", Path(folder) / "probed.engine"
        content, names = expose_codes(model)
        onnx.write_bytes(content)
        build_engine(request.model_copy(update={"onnx": onnx, "engine": engine, "layer_info": None}), timeout=timeout)
        batch = images[: request.batch.best]
        record = read_engine(engine)
        arrays = _run(engine, request.plugins, lambda r: r.run(batch))
        outputs = dict(zip((t.name for t in record.build.outputs), arrays, strict=True))
        session = onnxruntime.session(content)
        expected = dict(zip(names, onnxruntime.run(session, batch, len(batch), names), strict=True))
    first = first_difference(names, expected, outputs)
    return f"what differs first is {first}" if first else "with their codes as outputs no quantizers differ"


def _run(engine: Path, plugins: tuple[Path, ...], work: Callable[[EngineRunner], Result]) -> Result:
    runner = load(engine, plugins)
    try:
        return work(runner)
    finally:
        runner.close()


def _images(
    path: Path, onnx: Path, record: EngineRecord, data: str | None, preprocess: Preprocess | None
) -> Examples[np.ndarray]:
    """Returns images to compare on: of `data`, or seeded noise, which runs every kernel too."""
    count = max(CHECKED_IMAGES, record.batch.best)
    inputs = onnxruntime.inputs(onnxruntime.session(onnx))
    if data is None:
        return noise(inputs, count)
    model = model_at(path)
    inputs = inputs_for_data(model, inputs)
    images = open_examples(data, inputs, preprocess_of(model, preprocess), f"{path}", limit=count, split="test")
    return concatenated(list(images.batches(count)), np.concatenate)


def trtexec(
    path: Path,
    version: str | None,
    options: BuildOptions = BuildOptions(),  # noqa: B008 - it is frozen
    *,
    file_for: str | None = None,
    out: Path | None = None,
) -> tuple[str, str]:
    """Returns the trtexec commands (that builds, that times) the engine that `build` would build; needs no TensorRT.

    For a TensorRT that would run the bodies of plugin operators instead of the plugins, a file without bodies is
    written next to the engine's path, and the commands read that.

    Args:
        version: of the TensorRT that will run them, 10.3 to 11.x.

    Raises:
        InputError: the model or a flag cannot be used.
        BundleError: the bundle is damaged, or was not compiled for TensorRT.
    """
    if version is None:
        raise InputError("--trtexec needs --trt-version, e.g. 10.3 for JetPack 6: its flags differ between versions")
    known = check_version(version)
    onnx, (engine,) = engine_files(path, ON_DEVICE.name, options, file_for, (), out)
    if known < PLUGIN_WINS:
        onnx = bare_file(onnx, engine.with_suffix(".onnx"))
    try:
        graph = onnx_file.load(str(onnx), load_external_data=False).graph
    except Exception as error:  # protobuf raises its own types
        raise InputError(f"{onnx} cannot be read as ONNX: {str(error).splitlines()[0]}") from error
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    varying = {name: tuple(shape[1:]) for name, shape in shapes.items() if shape and shape[0] == 0}
    return trtexec_commands(onnx, engine, known, varying, options)
