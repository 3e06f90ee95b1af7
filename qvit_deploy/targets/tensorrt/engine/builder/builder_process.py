"""The process that builds one engine: `python -m` this module with `FD` as its argument and the request on its input.

TensorRT can terminate its process without an exception (RTX does if a plugin is missing), so builds never import it
into the user's process. Events are written as JSON lines to the file descriptor FD:

    {"phase": NAME, "parent": NAME or null, "steps": N}   a phase of the build begins
    {"step": NAME, "done": N}                              N of its steps are done
    {"finished": NAME}
    {"result": BuildResult}  or  {"error": MESSAGE}        the last line
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from qvit_deploy.artifacts.engine_record import BuildRequest, BuildResult, Tensor
from qvit_deploy.emit.local_functions import inlined, plugin_operators, without_plugin_bodies
from qvit_deploy.errors import InputError, QvitError
from qvit_deploy.lint.tensorrt_versions import PLUGIN_WINS
from qvit_deploy.targets.process_memory import peak_memory
from qvit_deploy.targets.tensorrt.engine.gpu import find_gpu, require_gpu
from qvit_deploy.targets.tensorrt.engine.library import Library, load_library

Send = Callable[[Mapping[str, Any]], None]


def build(library: Library, request: BuildRequest, send: Send) -> BuildResult:
    """Builds and writes the engine of `request`.

    Args:
        send: receives the events of the build's phases.

    Raises:
        InputError: the library rejects the file or the request, or builds no engine; gives its reason.
    """
    trt = library.module
    gpu = require_gpu("--target tensorrt") if library.kind.on_device else find_gpu()
    if not library.kind.on_device:
        library.require_capability(request.sm)
    logger = library.logger()
    if library.kind.on_device:
        trt.init_libnvinfer_plugins(logger, "")
    operators = library.load_plugins(request.plugins)
    model = _model(library, request)
    builder = trt.Builder(logger)
    network = library.network(builder)
    start = time.perf_counter()
    _parse(library, network, logger, model, request)
    parsed = time.perf_counter()
    config = library.configure(builder, request)
    config.progress_monitor = _monitor(trt, send)
    profile = _profile(builder, network, request)
    if profile is not None:
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    built = time.perf_counter()
    if engine is None:
        reason = "; ".join(logger.errors[-3:]) or "no reason given"
        raise InputError(f"{request.onnx}: {library.target} {library.version_text} builds no engine of it: {reason}")
    _write(request, engine)
    library.save_timing_cache(config, request)
    if request.layer_info is not None and gpu is not None:
        request.layer_info.write_text(_layer_info(library, logger, engine), encoding="utf-8")
    capability = (gpu.sm if gpu is not None else None) if library.kind.on_device else request.sm
    assert capability is not None
    return BuildResult(
        version=library.version_text,
        sm=capability,
        gpu=gpu.name if gpu is not None and library.kind.on_device else None,
        inputs=tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs)),
        outputs=tuple(_tensor(network.get_output(i)) for i in range(network.num_outputs)),
        operators=operators,
        messages=tuple(dict.fromkeys(logger.errors + logger.warnings)),
        layers=network.num_layers,
        parse_seconds=parsed - start,
        build_seconds=built - parsed,
        peak_memory_bytes=peak_memory() or 0,
    )


def _parse(library: Library, network: Any, logger: Any, model: bytes, request: BuildRequest) -> None:
    """Parses the ONNX file `model` into `network`. Raises InputError with the parser's errors."""
    parser = library.module.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        raise InputError(
            f"{request.onnx}: {library.target} cannot parse it: {'; '.join(errors[:3]) or 'no reason given'}"
        )


def _write(request: BuildRequest, engine: Any) -> None:
    """Writes the engine and synchronizes it to the disk."""
    with request.engine.open("xb") as file:
        file.write(memoryview(engine))
        file.flush()
        os.fsync(file.fileno())


def _model(library: Library, request: BuildRequest) -> bytes:
    """Returns the file in the form for this library. Raises InputError if it calls plugins that are not loaded."""
    model = request.onnx.read_bytes()
    if not library.kind.on_device:
        return inlined(model)
    missing = sorted(set(plugin_operators(model)) - set(library.operators()))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{request.onnx} needs the plugin {missing[0]}{more}, which no --plugin library brings")
    return without_plugin_bodies(model) if library.version < PLUGIN_WINS else model


def _monitor(trt: Any, send: Send) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            send({"phase": phase_name, "parent": parent_phase, "steps": num_steps})

        def step_complete(self, phase_name: str, step: int) -> bool:
            send({"step": phase_name, "done": step + 1})
            return True

        def phase_finish(self, phase_name: str) -> None:
            send({"finished": phase_name})

    return Monitor()


def _profile(builder: Any, network: Any, request: BuildRequest) -> Any:
    """Returns the optimization profile with the batches to build for, or None if every size is fixed."""
    profile, varies = builder.create_optimization_profile(), False
    batch = request.batch
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 not in shape:
            if not batch.least <= shape[0] <= batch.most:
                raise InputError(
                    f"{request.onnx} takes exactly {shape[0]} images at a time; --batch {batch} does not fit"
                )
            continue
        if -1 in shape[1:]:
            raise InputError(f"{request.onnx}: input {tensor.name} varies in more than its batch: {shape}")
        profile.set_shape(tensor.name, *((size, *shape[1:]) for size in (batch.least, batch.best, batch.most)))
        varies = True
    return profile if varies else None


def _layer_info(library: Library, logger: Any, engine: Any) -> str:
    """Returns the inspector's description of every layer of a built engine, JSON. Needs a GPU."""
    runtime = library.module.Runtime(logger)
    loaded = runtime.deserialize_cuda_engine(memoryview(engine))
    if loaded is None:
        raise InputError(f"the engine that was just built does not load: {'; '.join(logger.errors[-3:])}")
    return library.layer_info(loaded)


def _tensor(tensor: Any) -> Tensor:
    return Tensor(name=tensor.name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).rpartition(".")[2].lower())


def _parser_error(error: Any) -> str:
    node = error.node_name() or f"number {error.node()}"
    return f"{error.node_operator()} node {node}: {' '.join(error.desc().split())}"


def main() -> None:
    """Reads a request, builds, and answers."""
    with os.fdopen(int(sys.argv[1]), "w", buffering=1, encoding="utf-8") as pipe:

        def send(event: Mapping[str, Any]) -> None:
            pipe.write(json.dumps(event) + "\n")

        try:
            request = BuildRequest.model_validate_json(sys.stdin.read())
            result = build(load_library(request.target), request, send)
        except (QvitError, OSError) as error:
            send({"error": str(error)})
        else:
            send({"result": result.model_dump(mode="json")})


if __name__ == "__main__":
    main()
