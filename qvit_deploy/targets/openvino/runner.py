"""A file as a measurement runs it in OpenVINO."""

from __future__ import annotations

import time
from pathlib import Path

from qvit_deploy.graph.synthetic import noise
from qvit_deploy.targets.openvino.runtime import OpenVinoModel
from qvit_deploy.targets.runtime import Runner


class OpenVinoRunner(Runner):
    """A file for OpenVINO on the CPU, on normally distributed inputs. Loading includes compiling, as for the others."""

    def __init__(
        self, path: Path, batch: int | None, threads: int, precision: str | None, profiled: bool = False
    ) -> None:
        self.model = OpenVinoModel(
            path, batch=batch, any_batch=1, threads=threads, precision=precision, profiled=profiled
        )
        self.batch = self.model.batch
        self._input = noise(self.model.inputs, self.batch)

    def run_ns(self) -> int:
        start = time.perf_counter_ns()
        self.model.infer(self._input)
        return time.perf_counter_ns() - start
