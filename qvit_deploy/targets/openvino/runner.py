"""A file as a measurement runs it in OpenVINO."""

from __future__ import annotations

import time
from pathlib import Path

from qvit_deploy.targets.openvino.runtime import OpenVinoModel
from qvit_deploy.targets.run_values import run_values
from qvit_deploy.targets.runtime import Runner, RunSettings


class OpenVinoRunner(Runner):
    """A file for OpenVINO on the CPU. Loading includes compiling, as for the others."""

    def __init__(self, path: Path, settings: RunSettings, precision: str | None, profiled: bool = False) -> None:
        self.model = OpenVinoModel(
            path, batch=settings.batch, any_batch=1, threads=settings.threads, precision=precision, profiled=profiled
        )
        self.batch = self.model.batch
        self._input = run_values(self.model.inputs, self.batch, settings.values)

    def run_ns(self) -> int:
        start = time.perf_counter_ns()
        self.model.infer(self._input)
        return time.perf_counter_ns() - start
