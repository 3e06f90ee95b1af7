"""What it takes to measure a file: load it, run it once on inputs that are ready, and say how long that took."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qvit_deploy.artifacts.engine_record import ENGINE_SUFFIXES, EngineRecord, read_engine
from qvit_deploy.errors import InputError
from qvit_deploy.targets.batches import run_shape
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.targets.openvino.runtime import OpenVinoModel, openvino_precision, runs_in_openvino
from qvit_deploy.targets.tensorrt.engine import runtime as engine_runtime
from qvit_deploy.targets.tensorrt.engine.runtime import EngineRunner

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class Runner(ABC):
    """A loaded file with inputs prepared. Loading happens when it is made.

    Attributes:
        batch: images per run.
        device_memory_bytes: of a GPU's memory that loading it took; None on a CPU.
    """

    batch: int
    device_memory_bytes: int | None = None

    @abstractmethod
    def run_ns(self) -> int:
        """Runs once and returns nanoseconds by the clock of the device: a monotonic one on a CPU, events on a GPU."""

    def close(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Gives back what the end of the process does not."""


class OnnxRuntimeRunner(Runner):
    """An .onnx file in ONNX Runtime on the CPU, on normally distributed inputs."""

    def __init__(
        self,
        path: Path,
        batch: int | None,
        threads: int,
        optimized_to: Path | None = None,
        profile_to: Path | None = None,
    ) -> None:
        self._session = target.session(path, threads, optimized_to, profile_to)
        shapes = {i.name: run_shape(str(path), i.name, i.shape, batch) for i in self._session.get_inputs()}
        random = np.random.default_rng(0)
        self._inputs = {}
        for value in self._session.get_inputs():
            if value.type not in DTYPES:
                raise InputError(f"{path}: input {value.name!r} is {value.type}; bench feeds images of floats only")
            self._inputs[value.name] = random.standard_normal(shapes[value.name]).astype(DTYPES[value.type])
        self.batch = next(iter(shapes.values()))[0]

    def run_ns(self) -> int:
        start = time.perf_counter_ns()
        self._session.run(None, self._inputs)
        return time.perf_counter_ns() - start

    def end_profiling(self) -> Path:
        """The file with the profile, of a runner made with `profile_to`."""
        return Path(self._session.end_profiling())


class OpenVinoRunner(Runner):
    """A file for OpenVINO on the CPU, on normally distributed inputs. Loading includes compiling, as for the others."""

    def __init__(
        self, path: Path, batch: int | None, threads: int, precision: str | None, profiled: bool = False
    ) -> None:
        self.model = OpenVinoModel(
            path, batch=batch, any_batch=1, threads=threads, precision=precision, profiled=profiled
        )
        self._input = np.random.default_rng(0).standard_normal(self.model.shape).astype(np.float32)
        self.batch = self.model.shape[0]

    def run_ns(self) -> int:
        start = time.perf_counter_ns()
        self.model.infer(self._input)
        return time.perf_counter_ns() - start


class EngineFileRunner(Runner):
    """An engine of either TensorRT on the GPU, on normally distributed inputs that lie there; times by CUDA events.

    Attributes:
        engine: what runs it.
    """

    def __init__(self, path: Path, batch: int | None, load: Callable[[], EngineRunner]) -> None:
        self.engine = load()
        try:
            shapes, random = engine_shapes(path, self.engine.record, batch), np.random.default_rng(0)
            self.batch = shapes[0][0]
            self.engine.run(*(random.standard_normal(shape).astype(np.float32) for shape in shapes))
            self.device_memory_bytes = self.engine.device_memory()
        except InputError:
            self.engine.close()
            raise

    def run_ns(self) -> int:
        return max(1, round(1e6 * self.engine.repeat()))

    def close(self) -> None:
        self.engine.close()


def opener(path: Path, batch: int | None, threads: int, plugins: tuple[Path, ...] = ()) -> Callable[[], Runner]:
    """What loads `path` for `batch` images a run (None: the file's own, or 1), so that loading can be timed.

    What an engine needs is checked and imported here, before.

    Args:
        plugins: libraries that an engine calls.

    Raises:
        InputError: the file cannot be run here; what is returned raises it when it cannot be loaded, or takes another
            batch.
    """
    if path.suffix in ENGINE_SUFFIXES:
        load = engine_runtime.opener(path, plugins)
        return lambda: EngineFileRunner(path, batch, load)
    if runs_in_openvino(path):
        return lambda: OpenVinoRunner(path, batch, threads, openvino_precision(path))
    return lambda: OnnxRuntimeRunner(path, batch, threads)


@dataclass(frozen=True)
class Runtime:
    """What `opener` runs a file with: `name`, and the record of an engine, None of other files."""

    name: str
    engine: EngineRecord | None = None


def runtime_of(path: Path, batch: int | None = None) -> Runtime:
    """The runtime of `path` for `batch` images, as far as can be known before it is loaded.

    Raises:
        InputError: there is no file; an engine is damaged, for other batches, for another GPU, or there is none.
    """
    if not path.is_file():
        raise InputError(f"no bundle, .onnx file or engine at {path}")
    if path.suffix in ENGINE_SUFFIXES:
        record = read_engine(path)
        engine_shapes(path, record, batch)
        engine_runtime.require_runnable(path, record)
        return Runtime(record.target, record)
    return Runtime("openvino" if runs_in_openvino(path) else "onnxruntime")


def engine_shapes(path: Path, record: EngineRecord, batch: int | None) -> list[tuple[int, ...]]:
    """Shapes of the inputs that an engine is measured on; None takes the batch its kernels were chosen for.

    Raises:
        InputError: it was not built for this batch, or for other inputs than images.
    """
    sizes, inputs = record.batch, record.build.inputs
    if not inputs or any(len(tensor.shape) < 2 for tensor in inputs):
        raise InputError(f"{path}: has no inputs, or one that is not of images; bench feeds batches of images only")
    count = sizes.best if batch is None else batch
    if not sizes.least <= count <= sizes.most:
        raise InputError(f"{path}: takes {sizes.least} to {sizes.most} images at a time; --batch {count} does not fit")
    fixed = sorted({tensor.shape[0] for tensor in inputs} - {-1})
    if batch is not None and fixed not in ([], [batch]):
        raise InputError(f"{path}: takes exactly {fixed[0]} images at a time; leave --batch out")
    return [tensor.shape if tensor.shape[0] in fixed else (count, *tensor.shape[1:]) for tensor in inputs]
