"""Runs .onnx files in ONNX Runtime for measurements."""

from __future__ import annotations

import time
from pathlib import Path

from qvit_deploy.targets.batches import run_batch
from qvit_deploy.targets.onnxruntime.runtime import inputs, session
from qvit_deploy.targets.run_values import run_values
from qvit_deploy.targets.runtime import Runner, RunSettings


class OnnxRuntimeRunner(Runner):
    """Runs an .onnx file in ONNX Runtime on the CPU.

    Args:
        settings: batch, threads and values of the inputs.
        optimized_to, profile_to: see `runtime.session`.

    Raises:
        InputError: ONNX Runtime does not load the file, or it takes another batch or inputs of an unknown type.
    """

    def __init__(
        self,
        path: Path,
        settings: RunSettings,
        optimized_to: Path | None = None,
        profile_to: Path | None = None,
    ) -> None:
        self._session = session(path, settings.threads, optimized_to, profile_to)
        declared = inputs(self._session)
        self.batch = run_batch(str(path), declared, settings.batch)
        self._inputs = run_values(declared, self.batch, settings.values).feeds

    def run_ns(self) -> int:
        start = time.perf_counter_ns()
        self._session.run(None, self._inputs)
        return time.perf_counter_ns() - start

    def end_profiling(self) -> Path:
        """Ends profiling and returns the file with the profile; needs `profile_to`."""
        return Path(self._session.end_profiling())
