"""The runtime of engines of either TensorRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qvit_deploy.artifacts.engine_record import ENGINE_SUFFIXES, read_engine
from qvit_deploy.artifacts.measurement import Profile
from qvit_deploy.errors import InputError
from qvit_deploy.targets.runtime import ModelSession, Runner, RunSettings, Runtime, RuntimeFacts, SiteNames


class EngineRuntime(Runtime):
    """Runs engines on the GPU that they were built for. The library that runs one is named in its record."""

    name = "engine"
    evaluates = False

    def claims(self, path: Path) -> bool:
        return path.suffix in ENGINE_SUFFIXES

    def open(self, model: Path | bytes, threads: int) -> ModelSession:
        raise InputError(f"{model!s} is an engine: build --data compares it with its ONNX file")

    def opener(self, path: Path, settings: RunSettings) -> Callable[[], Runner]:
        """Returns a function that loads the engine; what that needs is checked and imported before."""
        from qvit_deploy.targets.tensorrt.engine.run import engine_runner as runtime
        from qvit_deploy.targets.tensorrt.engine.run.runner import EngineFileRunner

        load = runtime.opener(path, settings.plugins)
        return lambda: EngineFileRunner(path, settings.batch, load)

    def profile(self, path: Path, settings: RunSettings, names: SiteNames) -> Profile:
        from qvit_deploy.targets.tensorrt.engine.run.profile import profile_engine

        return profile_engine(path, settings.batch, settings.plugins, names.sites)

    def facts(self, path: Path, batch: int | None = None) -> RuntimeFacts:
        from qvit_deploy.targets.tensorrt.engine.run.engine_runner import launches_graph, require_runnable
        from qvit_deploy.targets.tensorrt.engine.run.runner import engine_shapes

        record = read_engine(path)
        engine_shapes(path, record, batch)
        require_runnable(path, record)
        flags = {"cuda_graph": "on"} if launches_graph(record) else {}
        return RuntimeFacts(record.target, flags, on_gpu=True, version=record.build.version)
