"""Engines of a bundle's models, or of a lone ONNX file; needs no torch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx as onnx_file

from qvit_deploy.artifacts.engine_record import (
    BuildOptions,
    BuildRequest,
    EngineRecord,
    read_engine,
    record_path,
)
from qvit_deploy.artifacts.opening import model_at, preprocess_of
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.lint.tensorrt_versions import PLUGIN_WINS
from qvit_deploy.progress import Progress
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime
from qvit_deploy.targets.tensorrt.engine.build import build_engine
from qvit_deploy.targets.tensorrt.engine.check import (
    EngineCheck,
    check_outputs,
    expose_codes,
    first_difference,
    products,
)
from qvit_deploy.targets.tensorrt.engine.files import bare_file, engine_files
from qvit_deploy.targets.tensorrt.engine.gpu import find_gpu
from qvit_deploy.targets.tensorrt.engine.kind import ON_DEVICE, engine_kind
from qvit_deploy.targets.tensorrt.engine.layer_info import EngineLayers, engine_layers, read_layers
from qvit_deploy.targets.tensorrt.engine.runtime import EngineRunner, load
from qvit_deploy.targets.tensorrt.engine.trtexec import check_version, trtexec_commands

Result = TypeVar("Result")

CHECKED_IMAGES = 32


@dataclass(frozen=True)
class Built:
    """One engine that was built.

    Attributes:
        check, layers: what was found where the engine could run: its logits against ONNX Runtime's, and the kernel of
            every site. None where no GPU it is for is at hand.
        slow: a sentence for every site that does not run as it was emitted.
    """

    path: Path
    record: EngineRecord
    check: EngineCheck | None = None
    layers: EngineLayers | None = None
    slow: tuple[str, ...] = ()


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
    keep_slow: bool = False,
    data: str | None = None,
    preprocess: Preprocess | None = None,
    progress: Progress | None = None,
) -> tuple[Built, ...]:
    """Builds an engine of the bundle or .onnx file at `path` for every one of `sms`.

    Args:
        target, file_for, out: see `engine_files`.
        timeout: seconds each engine may take.
        keep_slow: keep an engine some of whose sites do not run as emitted: on int8, fused, or in a plugin.
        data: images the engine is compared with ONNX Runtime on, where it can run; noise when None.
        preprocess: how they are prepared, for a lone ONNX file.

    Raises:
        InputError: the model, the library, the GPU or a flag cannot be used; engines built before it stay.
        BundleError: the bundle is damaged, or was not compiled for this target.
        CheckError: a build died or took too long, or the engine does not do what the model does.
    """
    kind = engine_kind(target)
    kind.require_options(sms, options)
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
            built.append(Built(engine, record))
            continue
        try:
            images = _images(path, record, data, preprocess)
            built.append(_checked(request, record, images, timeout, keep_slow))
        except BaseException:
            for written in (engine, record_path(engine)):
                written.unlink(missing_ok=True)  # an engine that failed, or was not checked, must not be deployed
            raise
    return tuple(built)


def _runs_here(record: EngineRecord) -> bool:
    """Whether the engine is to be checked: one that was built on the device always, others where GPU and pycuda are."""
    gpu = find_gpu()
    fits = gpu is not None and gpu.sm == record.build.sm
    return engine_kind(record.target).on_device or (fits and find_spec("pycuda") is not None)


def _checked(request: BuildRequest, record: EngineRecord, images: np.ndarray, timeout: float, keep_slow: bool) -> Built:
    """Runs the engine against its ONNX file and reads off its layers. Raises CheckError."""
    layers, slow = None, list[str]()
    if request.layer_info is not None and request.layer_info.is_file():
        planned = products(request.onnx)
        found = read_layers(request.layer_info.read_text(encoding="utf-8"))
        layers = engine_layers(found, planned.quantized)
        slow = layers.failures(planned.attention, planned.plugins)
        if slow and not keep_slow:
            more = f" (and {len(slow) - 1} more)" if len(slow) > 1 else ""
            raise CheckError(
                f"the engine does not run as it was emitted: {slow[0]}{more}; {request.layer_info} has every layer, "
                "--keep-slow keeps the engine"
            )
    model = request.onnx.read_bytes()
    try:
        check = _run(request.engine, request.plugins, lambda r: check_outputs(r, model, images, request.batch.best))
    except CheckError as error:
        raise CheckError(f"{error}; {_where(request, model, images, timeout)}") from None
    return Built(request.engine, record, check, layers, tuple(slow))


def _where(request: BuildRequest, model: bytes, images: np.ndarray, timeout: float) -> str:
    """Which tensor is the first that differs, from an engine with every quantizer's codes as outputs."""
    with tempfile.TemporaryDirectory() as folder:
        onnx, engine = Path(folder) / "probed.onnx", Path(folder) / "probed.engine"
        content, names = expose_codes(model)
        onnx.write_bytes(content)
        build_engine(request.model_copy(update={"onnx": onnx, "engine": engine, "layer_info": None}), timeout=timeout)
        some = images[: request.batch.best]
        record = read_engine(engine)
        got = _run(engine, request.plugins, lambda r: r.run(some))
        outputs = dict(zip((t.name for t in record.build.outputs), got, strict=True))
        session = onnxruntime.session(content)
        expected = dict(zip(names, onnxruntime.run(session, some, len(some), names), strict=True))
    first = first_difference(names, expected, outputs)
    return f"what differs first is {first}" if first else "with their codes as outputs no quantizers differ"


def _run(engine: Path, plugins: tuple[Path, ...], work: Callable[[EngineRunner], Result]) -> Result:
    runner = load(engine, plugins)
    try:
        return work(runner)
    finally:
        runner.close()


def _images(path: Path, record: EngineRecord, data: str | None, preprocess: Preprocess | None) -> np.ndarray:
    """Images to compare on, float32 [n, C, H, W]: of `data`, or seeded noise, which exercises every kernel too."""
    count = max(CHECKED_IMAGES, record.batch.best)
    if data is None:
        shape = record.build.inputs[0].shape[1:]
        return np.random.default_rng(0).standard_normal((count, *shape), np.float32)
    images = open_images(data, preprocess_of(model_at(path), preprocess), limit=count, split="test")
    return np.concatenate([pixels for pixels, _ in images.batches(count)])


def trtexec(
    path: Path,
    version: str | None,
    options: BuildOptions = BuildOptions(),  # noqa: B008 - it is frozen
    *,
    file_for: str | None = None,
    out: Path | None = None,
) -> tuple[str, str]:
    """The commands of NVIDIA's tool that build and time what `build` would make; needs no TensorRT.

    For a TensorRT that would run the bodies of plugin operators instead of the plugins, the file without them is
    written beside where the engine goes, and the commands read that.

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
