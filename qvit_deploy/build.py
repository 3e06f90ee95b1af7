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

from qvit_deploy.bundle import read_bundle
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.emit.local_functions import DOMAIN, plugin_operators, without_plugin_bodies
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.progress import Progress
from qvit_deploy.recipe import HALF_PROFILES, PACKED_PROFILE, Profile
from qvit_deploy.targets import onnxruntime
from qvit_deploy.targets.cuda_driver import find_gpu
from qvit_deploy.targets.engine import (
    Batch,
    BuildRequest,
    EngineRecord,
    Hardware,
    Target,
    read_engine,
    record_path,
)
from qvit_deploy.targets.engine_build import build_engine
from qvit_deploy.targets.engine_check import EngineCheck, check_logits, first_difference, probed, products
from qvit_deploy.targets.engine_runtime import EngineRunner, load
from qvit_deploy.targets.layer_info import EngineLayers, engine_layers, read_layers
from qvit_deploy.targets.plugin_build import LIBRARY
from qvit_deploy.targets.tensorrt_library import PLUGIN_WINS
from qvit_deploy.targets.trtexec import check_version, trtexec_commands

Result = TypeVar("Result")

ENGINES = "engines"
"""The folder of a bundle that engines go to; the manifest, written by the compile, does not list it."""


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
    target: Target,
    *,
    profile: Profile | None = None,
    sms: tuple[int, ...] = (),
    out: Path | None = None,
    batch: Batch | None = None,
    plugins: tuple[Path, ...] = (),
    hardware: Hardware = "none",
    timing_cache: Path | None = None,
    workspace_mb: int | None = None,
    timeout: float = 600.0,
    force: bool = False,
    keep_slow: bool = False,
    data: str | None = None,
    preprocess: Preprocess | None = None,
    progress: Progress | None = None,
) -> tuple[Built, ...]:
    """Builds an engine of the bundle or .onnx file at `path` for every one of `sms`.

    Args:
        profile: which of a bundle's files; by default that of the target, but `tensorrt-plugin` where there are plugins
            or no other.
        out: the engine of a lone ONNX file; a bundle keeps its own in `engines/`.
        plugins: libraries of the plugins that the file calls.
        timeout: seconds each engine may take.
        keep_slow: keep an engine some of whose sites do not run as emitted: on int8, fused, or in a plugin.
        data: images the engine is compared with ONNX Runtime on, where it can run; noise when None.
        preprocess: how they are prepared, for a lone ONNX file.

    Raises:
        InputError: the model, the library, the GPU or a flag cannot be used; engines built before it stay.
        BundleError: the bundle is damaged, or was not compiled for this target.
        CheckError: a build died or took too long, or the engine does not do what the model does.
    """
    if target == "tensorrt" and sms:
        raise InputError("--sm is for tensorrt-rtx: TensorRT builds for the GPU of the machine it runs on")
    if target == "tensorrt-rtx" and not sms:
        raise InputError("--target tensorrt-rtx needs --sm, e.g. --sm 86 --sm 120")
    if target == "tensorrt-rtx" and (hardware != "none" or timing_cache is not None):
        raise InputError("--hardware and --timing-cache are for --target tensorrt")
    onnx, engines = _files(path, target, _profiles(profile, target, plugins), sms, out, batch)
    _require_plugins(onnx, target, plugins)
    built = []
    for sm, engine in zip(sms or (None,), engines, strict=True):
        request = BuildRequest(
            target=target,
            onnx=onnx,
            engine=engine,
            sm=sm,
            batch=batch or Batch(),
            plugins=plugins,
            hardware=hardware,
            timing_cache=timing_cache,
            workspace_mb=workspace_mb,
            layer_info=engine.with_suffix(".layers.json") if target == "tensorrt" else None,
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
    """Whether the engine is to be checked. TensorRT builds on a device, so always; RTX where its GPU and pycuda are."""
    gpu = find_gpu()
    fits = gpu is not None and gpu.sm == record.build.sm
    return record.target == "tensorrt" or (fits and find_spec("pycuda") is not None)


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
        check = _run(request.engine, request.plugins, lambda r: check_logits(r, model, images, request.batch.best))
    except CheckError as error:
        raise CheckError(f"{error}; {_where(request, model, images, timeout)}") from None
    return Built(request.engine, record, check, layers, tuple(slow))


def _where(request: BuildRequest, model: bytes, images: np.ndarray, timeout: float) -> str:
    """Which tensor is the first that differs, from an engine with every quantizer's codes as outputs."""
    with tempfile.TemporaryDirectory() as folder:
        onnx, engine = Path(folder) / "probed.onnx", Path(folder) / "probed.engine"
        content, names = probed(model)
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
    if preprocess is None and path.is_dir():
        preprocess = Preprocess.model_validate(read_bundle(path).manifest.source["preprocess"])
    if preprocess is None:
        raise InputError(f"{path} does not say how its images are prepared; pass --preprocess F.json")
    images = open_images(data, preprocess, limit=count, split="test")
    return np.concatenate([pixels for pixels, _ in images.batches(count)])


def trtexec(
    path: Path,
    version: str | None,
    *,
    profile: Profile | None = None,
    out: Path | None = None,
    batch: Batch | None = None,
    plugins: tuple[Path, ...] = (),
    hardware: Hardware = "none",
    timing_cache: Path | None = None,
    workspace_mb: int | None = None,
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
    onnx, (engine,) = _files(path, "tensorrt", _profiles(profile, "tensorrt", plugins), (), out, batch)
    _require_plugins(onnx, "tensorrt", plugins)
    if known < PLUGIN_WINS:
        onnx = _bare(onnx, engine.with_suffix(".onnx"))
    try:
        graph = onnx_file.load(str(onnx), load_external_data=False).graph
    except Exception as error:  # protobuf raises its own types
        raise InputError(f"{onnx} cannot be read as ONNX: {str(error).splitlines()[0]}") from error
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    return trtexec_commands(
        onnx,
        engine,
        known,
        {name: tuple(shape[1:]) for name, shape in shapes.items() if shape and shape[0] == 0},
        batch=batch or Batch(),
        plugins=plugins,
        hardware=hardware,
        timing_cache=timing_cache,
        workspace_mb=workspace_mb,
    )


def _require_plugins(onnx: Path, target: Target, plugins: tuple[Path, ...]) -> None:
    """Raises InputError if the file calls our plugins and no library was given; the building process checks which."""
    if target == "tensorrt" and not plugins and any(o.startswith(f"{DOMAIN}::") for o in _operators(onnx)):
        raise InputError(
            f"{onnx} runs in the plugins of {LIBRARY}: pass --compile-plugin, or --plugin PATH/{LIBRARY} "
            "(qvit-deploy build-plugin compiles it)"
        )


def _operators(onnx: Path) -> tuple[str, ...]:
    return plugin_operators(onnx.read_bytes()) if onnx.is_file() else ()


def _bare(onnx: Path, to: Path) -> Path:
    """`onnx`, or where it has bodies of plugin operators the file `to` without them."""
    model = onnx.read_bytes()
    bare = without_plugin_bodies(model)
    if bare == model:
        return onnx
    if to.resolve() == onnx.resolve():
        raise InputError(f"{onnx}: the file without function bodies would replace it; give -o another name")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(bare)
    except OSError as error:
        raise InputError(f"{to} cannot be written: {error.strerror}") from error
    return to


def _profiles(profile: Profile | None, target: Target, plugins: tuple[Path, ...]) -> tuple[Profile, ...]:
    """The profiles whose file is built, the first that a bundle has. Raises InputError."""
    if profile is not None and profile not in HALF_PROFILES:
        raise InputError(f"--profile {profile!r} is not one of {', '.join(HALF_PROFILES)}")
    if profile is not None:
        return (profile,)
    return (PACKED_PROFILE, target) if plugins else (target, PACKED_PROFILE)


def _files(
    path: Path,
    target: Target,
    profiles: tuple[Profile, ...],
    sms: tuple[int, ...],
    out: Path | None,
    batch: Batch | None,
) -> tuple[Path, list[Path]]:
    """(the ONNX file, where each engine goes)."""
    if path.is_dir():
        if out is not None:
            raise InputError(f"-o is for a lone ONNX file; engines of the bundle {path} go to {path / ENGINES}")
        bundle = read_bundle(path)
        found = [p for p in profiles if f"model.{p}.onnx" in bundle.manifest.files]
        if not found:
            wanted = target if target in profiles else profiles[0]
            raise InputError(f"bundle {path} was not compiled for {wanted}: compile it again with --target {wanted}")
        name = f"model.{found[0]}.onnx"
        stem = f"{found[0]}{{}}.b{batch or Batch()}.engine"
        places = [f".sm{sm}" for sm in sms] or [""]
        return bundle.path_of(name), [path / ENGINES / stem.format(place) for place in places]
    if not path.is_file():
        raise InputError(f"no bundle or .onnx file at {path}")
    if len(profiles) == 1:
        raise InputError(f"--profile is for bundles: {path} is a lone ONNX file")
    if out is None:
        raise InputError(f"{path} is a lone ONNX file: pass -o ENGINE")
    if len(sms) > 1:
        raise InputError("-o names one engine: give one --sm")
    return path, [out]
