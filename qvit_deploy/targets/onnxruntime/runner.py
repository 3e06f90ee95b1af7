"""Runs .onnx files in ONNX Runtime for measurements."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from qvit_deploy.errors import InputError
from qvit_deploy.targets.batches import run_shape
from qvit_deploy.targets.onnxruntime.runtime import session
from qvit_deploy.targets.runtime import Runner

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class OnnxRuntimeRunner(Runner):
    """Runs an .onnx file in ONNX Runtime on the CPU, on normally distributed inputs.

    Args:
        optimized_to, profile_to: see `runtime.session`.

    Raises:
        InputError: ONNX Runtime does not load the file, or it takes another batch or inputs that are no floats.
    """

    def __init__(
        self,
        path: Path,
        batch: int | None,
        threads: int,
        optimized_to: Path | None = None,
        profile_to: Path | None = None,
    ) -> None:
        self._session = session(path, threads, optimized_to, profile_to)
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
        """Ends profiling and returns the file with the profile; needs `profile_to`."""
        return Path(self._session.end_profiling())
