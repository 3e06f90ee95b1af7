"""What it takes to measure a file: load it, run it once on inputs that are ready, and say how long that took."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

import numpy as np

from qvit_deploy.errors import InputError
from qvit_deploy.targets import onnxruntime as target

ENGINES = (".engine", ".plan", ".trt")
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class Runner(Protocol):
    """A loaded file with inputs prepared. Loading happens when it is made."""

    @property
    def batch(self) -> int:
        """Images per run."""

    def run_ns(self) -> int:
        """Runs once and returns nanoseconds by the clock of the device: a monotonic one on a CPU, events on a GPU."""


class OnnxRuntimeRunner:
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
        shapes = {i.name: _shape(path, i.name, i.shape, batch) for i in self._session.get_inputs()}
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


class OpenVinoRunner:
    """An OpenVINO model (.xml) on the CPU, for comparisons. Loading includes compiling, as for the others."""

    def __init__(self, path: Path, batch: int | None, threads: int) -> None:
        try:
            import openvino
        except ImportError:
            raise InputError(
                f"{path}: running it needs OpenVINO, which is not installed: pip install openvino"
            ) from None
        config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        try:
            model = openvino.Core().read_model(path)
            value = model.input(0)
            declared = [d.get_length() if d.is_static else str(d) for d in value.partial_shape]
            shape = _shape(path, value.any_name, declared, batch)
            model.reshape({value: list(shape)})
            self._request = openvino.compile_model(model, "CPU", config).create_infer_request()
        except RuntimeError as error:  # all that OpenVINO raises
            raise InputError(f"{path}: OpenVINO cannot load it: {str(error).splitlines()[-1]}") from error
        self._input = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        self.batch = shape[0]

    def run_ns(self) -> int:
        start = time.perf_counter_ns()
        self._request.infer([self._input])
        return time.perf_counter_ns() - start


def open_runner(path: Path, batch: int | None, threads: int) -> Runner:
    """Loads `path` for `batch` images a run (None: the file's own, or 1).

    Raises:
        InputError: the file cannot be loaded, or takes another batch.
    """
    if runtime_of(path) == "openvino":
        return OpenVinoRunner(path, batch, threads)
    return OnnxRuntimeRunner(path, batch, threads)


def runtime_of(path: Path) -> str:
    """Name of the runtime that `open_runner` uses for `path`. Raises InputError."""
    require_runnable(path)
    return "openvino" if path.suffix == ".xml" else "onnxruntime"


def require_runnable(path: Path) -> None:
    """Raises InputError unless there is a runtime here for the file."""
    if not path.is_file():
        raise InputError(f"no bundle, .onnx file or engine at {path}")
    if path.suffix in ENGINES:
        raise InputError(
            f"{path}: running an engine needs the TensorRT runtime, which bench does not have here; measure it with "
            "trtexec --exportTimes and read that with --trtexec-times"
        )


def _shape(path: Path, name: str, declared: list[int | str | None], batch: int | None) -> tuple[int, ...]:
    if not declared:
        raise InputError(f"{path}: input {name!r} is a scalar; bench feeds batches of images only")
    first, *rest = declared
    unknown = [d for d in rest if not isinstance(d, int)]
    if unknown:
        raise InputError(f"{path}: input {name!r} has the open dimension {unknown[0]!r}; fix its image size")
    if isinstance(first, int):
        if batch not in (None, first):
            raise InputError(f"{path}: takes batches of {first} only; leave --batch out, or compile it for {batch}")
        batch = first
    return (batch or 1, *(d for d in rest if isinstance(d, int)))
