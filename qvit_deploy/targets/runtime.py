"""What a runtime is: it loads files for evaluation, runs them for measurements, and profiles them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qvit_deploy.artifacts.measurement import Profile
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import Input, static_batch
from qvit_deploy.tasks.task import Arrays


@dataclass(frozen=True, eq=False)
class ModelSession:
    """A model loaded for evaluation.

    Attributes:
        inputs: as the file declares them.
        run: maps examples to the outputs by name, each [n, ...].
    """

    inputs: tuple[Input, ...]
    run: Callable[[Examples[np.ndarray]], Arrays]

    @property
    def static_batch(self) -> int | None:
        """Returns the number of examples per run where that is fixed, else None."""
        return static_batch(self.inputs)


class Runner(ABC):
    """A file loaded for measurements, with its inputs prepared. The constructor loads it.

    Attributes:
        batch: images per run.
        device_memory_bytes: GPU memory that loading and one run took; None on a CPU.
    """

    batch: int
    device_memory_bytes: int | None = None

    @abstractmethod
    def run_ns(self) -> int:
        """Runs once and returns its nanoseconds: by a monotonic clock on a CPU, by events on a GPU."""

    def close(self) -> None:  # noqa: B027 (most have nothing to release)
        """Releases what the end of the process does not."""


@dataclass(frozen=True)
class RunSettings:
    """The settings that a measurement runs a file with.

    Attributes:
        batch: images per run; None for the file's own, or 1 where it takes any number.
        threads: of the runtime on a CPU.
        plugins: plugin libraries that an engine calls.
        values: file of `run_values` with the values of the inputs; None for made-up ones.
    """

    batch: int | None = None
    threads: int = 1
    plugins: tuple[Path, ...] = ()
    values: Path | None = None


@dataclass(frozen=True)
class SiteNames:
    """The names by which a profile attributes time to sites.

    Attributes:
        attention: output tensor -> site, of the attention products of an .onnx file.
        sites: sites that the layers of an engine are attributed to.
    """

    attention: Mapping[str, str] = field(default_factory=dict)
    sites: Sequence[str] = ()


@dataclass(frozen=True)
class RuntimeFacts:
    """What a measurement records of the runtime of a file.

    Attributes:
        name: of the runtime, in settings and among the versions of the environment.
        flags: settings of the runtime that decide how fast it is.
        on_gpu: whether it runs on a GPU, where neither threads nor the reference workload of the CPU mean anything.
        version: of the library, where the file runs in no other version.
    """

    name: str
    flags: Mapping[str, str] = field(default_factory=dict)
    on_gpu: bool = False
    version: str | None = None


class Runtime(ABC):
    """A library that runs files. The library is not imported before a file is loaded.

    Attributes:
        name: in measurements.
        evaluates: whether it loads files for `eval`; engines are compared with their file when they are built.
    """

    name: str
    evaluates: bool = True

    def claims(self, path: Path) -> bool:
        """Returns whether a file outside of a bundle is for this runtime, by its name."""
        return False

    @abstractmethod
    def open(self, model: Path | bytes, threads: int) -> ModelSession:
        """Loads a file, or the bytes of one, for `eval`.

        Raises:
            InputError: the library is not installed or does not take the file.
        """

    @abstractmethod
    def opener(self, path: Path, settings: RunSettings) -> Callable[[], Runner]:
        """Returns a function that loads the file at `path` for a measurement, so that loading can be timed.

        Raises:
            InputError: the file cannot be run here. The returned function raises it if the file cannot be loaded or
                takes another batch.
        """

    @abstractmethod
    def profile(self, path: Path, settings: RunSettings, names: SiteNames) -> Profile:
        """Profiles a file with the library's own profiler: the time of a run by site and operator.

        Raises:
            InputError: the file cannot be run here, or takes another batch.
        """

    def facts(self, path: Path, batch: int | None = None) -> RuntimeFacts:
        """Returns what is known of the runtime of the file at `path` before it is loaded.

        Raises:
            InputError: the file is damaged, for other batches, or for another device.
        """
        return RuntimeFacts(self.name)
