"""Runs engines of both TensorRTs on the GPU: buffers and streams by pycuda, a CUDA graph, times by CUDA events.

Nothing here has run on a GPU yet (docs/tensorrt.md says what was exercised and how).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from qvit_deploy.errors import InputError
from qvit_deploy.targets.cuda_driver import CudaGraph, require_gpu
from qvit_deploy.targets.engine import EngineRecord, read_engine, require_runnable
from qvit_deploy.targets.tensorrt_library import Library, load_library


def load(path: Path, plugins: tuple[Path, ...] = (), use_graph: bool = True) -> EngineRunner:
    """The engine at `path`, ready to run.

    Args:
        plugins: the libraries it was built with.
        use_graph: launch through a CUDA graph; engines of RTX, which compile kernels while they run, never do.

    Raises:
        InputError: there is no GPU, a module is missing, or the engine is damaged, for another GPU or version, or lacks
            a plugin library.
    """
    record = read_engine(path)
    gpu = require_gpu(f"running {path}")
    library = load_library(record.target)
    require_runnable(path, record, library.version, gpu.sm, gpu.name, plugins)
    try:
        cuda = importlib.import_module("pycuda.driver")
    except ImportError as error:
        raise InputError('running engines needs pycuda: pip install "qvit-deploy[tensorrt]"') from error
    return EngineRunner(path, record, library, cuda, plugins, use_graph and record.target == "tensorrt")


class EngineRunner:
    """One engine on the first GPU. Use it from one thread, and `close` it.

    Attributes:
        record: how the engine was built.
    """

    def __init__(
        self, path: Path, record: EngineRecord, library: Library, cuda: Any, plugins: tuple[Path, ...], use_graph: bool
    ) -> None:
        self.record = record
        self._cuda, self._trt, self._use_graph = cuda, library.module, use_graph
        cuda.init()
        self._device_context = cuda.Device(0).retain_primary_context()
        self._device_context.push()
        logger = self._trt.Logger(self._trt.Logger.ERROR)
        if record.target == "tensorrt":
            self._trt.init_libnvinfer_plugins(logger, "")
        library.load_plugins(plugins)
        self._runtime = self._trt.Runtime(logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            self._device_context.pop()
            raise InputError(f"{path}: {record.target} {library.version_text} does not load it; build it again here")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT]
        self._input, self._outputs = inputs[0], [n for n in names if n not in inputs]
        self._stream, self._start, self._end = cuda.Stream(), cuda.Event(), cuda.Event()
        self._shape: tuple[int, ...] | None = None
        self._host: dict[str, np.ndarray] = {}
        self._device: dict[str, Any] = {}
        self._graph: CudaGraph | None = None

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """The outputs for `images` float32 [n, C, H, W], in the engine's order.

        Raises:
            InputError: n is not a batch the engine was built for, or the device refuses the work.
        """
        batch = self.record.batch
        if not batch.least <= len(images) <= batch.most:
            raise InputError(f"the engine takes {batch.least} to {batch.most} images at a time, not {len(images)}")
        if images.shape != self._shape:
            self._prepare(images.shape)
        np.copyto(self._host[self._input], images)
        self._cuda.memcpy_htod_async(self._device[self._input], self._host[self._input], self._stream)
        self._start.record(self._stream)
        if self._graph is not None:
            self._graph.launch()
        else:
            self._enqueue()
        self._end.record(self._stream)
        for name in self._outputs:
            self._cuda.memcpy_dtoh_async(self._host[name], self._device[name], self._stream)
        self._stream.synchronize()
        return [self._host[name].copy() for name in self._outputs]

    def time(self) -> float:
        """Milliseconds between the events before and after the last run's kernels: no transfers, no host time."""
        return float(self._start.time_till(self._end))

    def close(self) -> None:
        """Gives back buffers, graph and context."""
        if self._graph is not None:
            self._graph.close()
        self._graph, self._device, self._host = None, {}, {}
        self._context = self._engine = self._runtime = None
        self._device_context.pop()

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Buffers, addresses and, after one run that lets the library settle, the graph for inputs of this shape."""
        if self._graph is not None:
            self._graph.close()
        self._graph = self._shape = None
        if not self._context.set_input_shape(self._input, shape):
            raise InputError(f"the engine does not take images of shape {'x'.join(map(str, shape))}")
        for name in (self._input, *self._outputs):
            dtype = self._trt.nptype(self._engine.get_tensor_dtype(name))
            self._host[name] = self._cuda.pagelocked_empty(tuple(self._context.get_tensor_shape(name)), dtype)
            self._device[name] = self._cuda.mem_alloc(max(1, self._host[name].nbytes))
            self._context.set_tensor_address(name, int(self._device[name]))
        self._enqueue()
        self._stream.synchronize()
        if self._use_graph:
            self._graph = CudaGraph(self._stream.handle, self._enqueue)
        self._shape = shape

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise InputError("the engine could not be run: TensorRT enqueued nothing")
