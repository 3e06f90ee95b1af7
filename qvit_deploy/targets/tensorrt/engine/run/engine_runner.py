"""Runs engines of both TensorRTs on the GPU: buffers and streams by pycuda, a CUDA graph, times by CUDA events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qvit_deploy.artifacts.engine_record import EngineRecord, read_engine
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.tensorrt.engine.gpu import CudaGraph, pycuda_driver, require_gpu
from qvit_deploy.targets.tensorrt.engine.kind import engine_kind
from qvit_deploy.targets.tensorrt.engine.library import Library, load_library
from qvit_deploy.targets.tensorrt.engine.run.fit import require_device, require_library


def require_runnable(path: Path, record: EngineRecord) -> None:
    """Raises InputError if there is no GPU or the engine is for another one. Imports nothing of TensorRT."""
    gpu = require_gpu(f"running {path}")
    require_device(path, record, gpu.sm, gpu.name)


def load(path: Path, plugins: tuple[Path, ...] = ()) -> EngineRunner:
    """Loads the engine at `path`.

    Args:
        plugins: the plugin libraries it was built with.

    Raises:
        InputError: as `opener`, or TensorRT does not load the engine.
    """
    return opener(path, plugins)()


def opener(path: Path, plugins: tuple[Path, ...] = ()) -> Callable[[], EngineRunner]:
    """Returns a function that loads the engine at `path`; all checks and imports are done before, so it can be timed.

    Args:
        plugins: the plugin libraries it was built with.

    Raises:
        InputError: there is no GPU, a module is missing, or the engine is damaged, for another GPU or version, or lacks
            a plugin library.
    """
    record = read_engine(path)
    require_runnable(path, record)
    library = load_library(record.target)
    require_library(path, record, library.version, plugins)
    cuda = load_pycuda()
    return lambda: EngineRunner(path, record, library, cuda, plugins)


def load_pycuda() -> Any:
    """Imports `pycuda.driver`. Raises InputError if it is not installed or finds no driver."""
    cuda = pycuda_driver()
    if cuda is None:
        raise InputError('running engines needs pycuda: pip install "qvit-deploy[tensorrt]"')
    return cuda


def launches_graph(record: EngineRecord) -> bool:
    """Returns whether runs launch a CUDA graph. Those of RTX, which compiles kernels while they run, do not."""
    return engine_kind(record.target).on_device


class EngineRunner:
    """Runs one engine on the first GPU. It must be used from one thread, and closed.

    Attributes:
        record: the engine's record.

    Raises:
        InputError: TensorRT does not load the engine or a plugin library.
    """

    def __init__(
        self, path: Path, record: EngineRecord, library: Library, cuda: Any, plugins: tuple[Path, ...]
    ) -> None:
        self.record = record
        self._cuda, self._trt, self._library = cuda, library.module, library
        cuda.init()
        self._device_context = cuda.Device(0).retain_primary_context()
        self._device_context.push()
        self._free_before_load = cuda.mem_get_info()[0]
        logger = library.logger()
        if library.kind.on_device:
            self._trt.init_libnvinfer_plugins(logger, "")
        needed = {p.name for p in record.plugins}
        library.load_plugins(tuple(p for p in plugins if p.name in needed))
        self._runtime = self._trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            self._device_context.pop()
            reason = " ".join("; ".join(logger.errors[-3:]).split()) or "no reason given"
            raise InputError(
                f"{path}: {record.target} {library.version_text} does not load it ({reason}); build it again here"
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        self._inputs, self._outputs = inputs, [n for n in names if n not in inputs]
        self._stream, self._start, self._end = cuda.Stream(), cuda.Event(), cuda.Event()
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._host: dict[str, np.ndarray] = {}
        self._device: dict[str, Any] = {}
        self._graph: CudaGraph | None = None
        self._profiler: Any = None

    def run(self, examples: Examples[np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for n examples, in the engine's order.

        Raises:
            InputError: n is not a batch the engine was built for, or the device refuses the work.
        """
        batch = self.record.batch
        for array in examples.arrays.values():
            if not batch.least <= len(array) <= batch.most:
                raise InputError(f"the engine takes {batch.least} to {batch.most} images at a time, not {len(array)}")
        feeds = examples.feeds_for(self._inputs)
        shapes = tuple(array.shape for array in feeds.values())
        if shapes != self._shapes:
            self._prepare(shapes)
        for name, array in feeds.items():
            np.copyto(self._host[name], array, casting="same_kind")  # a part of a model may take float16
            self._cuda.memcpy_htod_async(self._device[name], self._host[name], self._stream)
        self._launch()
        for name in self._outputs:
            self._cuda.memcpy_dtoh_async(self._host[name], self._device[name], self._stream)
        self._stream.synchronize()
        return [self._host[name].copy() for name in self._outputs]

    def time(self) -> float:
        """Returns milliseconds between the events around the last run's kernels, without transfers and host time."""
        return float(self._start.time_till(self._end))

    def repeat(self) -> float:
        """Runs once more on the inputs of the last `run`, without copies. Returns milliseconds, as `time`."""
        self._launch()
        self._stream.synchronize()
        return self.time()

    def device_memory(self) -> int:
        """Returns bytes of GPU memory allocated since before the engine was loaded, by other programs too."""
        return max(0, self._free_before_load - self._cuda.mem_get_info()[0])

    def layer_info(self) -> str:
        """Returns the inspector's description of every layer, JSON."""
        return self._library.layer_info(self._engine)

    def layer_times(self, runs: int) -> dict[str, list[float]]:
        """Returns layer -> milliseconds in each of `runs` runs on the last inputs, by TensorRT's IProfiler.

        The profiler synchronizes after every run and stays attached to the engine, so that later runs take longer.

        Raises:
            InputError: it reported no layer.
        """
        times: dict[str, list[float]] = defaultdict(list)
        trt = self._trt

        class Profiler(trt.IProfiler):  # type: ignore[name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[layer_name].append(ms)

        self._profiler = Profiler()  # referenced here, since TensorRT may not reference it
        self._context.profiler = self._profiler
        for _ in range(runs):
            self._enqueue()
            self._stream.synchronize()
        if not times:
            raise InputError("TensorRT's profiler reported no layer")
        return dict(times)

    def close(self) -> None:
        """Releases buffers, graph and context."""
        if self._graph is not None:
            self._graph.close()
        self._graph, self._device, self._host = None, {}, {}
        self._context = self._engine = self._runtime = None
        self._device_context.pop()

    def _prepare(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Allocates buffers for inputs of these shapes and, after one run that initializes the library, a graph."""
        if self._graph is not None:
            self._graph.close()
        self._graph = self._shapes = None
        for name, shape in zip(self._inputs, shapes, strict=True):
            if not self._context.set_input_shape(name, shape):
                raise InputError(f"the engine does not take images of shape {'x'.join(map(str, shape))}")
        for name in (*self._inputs, *self._outputs):
            dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
            self._host[name] = self._cuda.pagelocked_empty(tuple(self._context.get_tensor_shape(name)), dtype)
            self._device[name] = self._cuda.mem_alloc(max(1, self._host[name].nbytes))
            self._context.set_tensor_address(name, int(self._device[name]))
        self._enqueue()
        self._stream.synchronize()
        if launches_graph(self.record):
            self._graph = CudaGraph(self._stream.handle, self._enqueue)
        self._shapes = shapes

    def _launch(self) -> None:
        """Enqueues one run between the two events."""
        self._start.record(self._stream)
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()
        self._end.record(self._stream)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise InputError("the engine could not be run: TensorRT enqueued nothing")
