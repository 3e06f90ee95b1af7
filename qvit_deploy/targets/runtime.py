"""What a runtime is: it opens files for evaluation, runs them for measurements, and says where their time goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qvit_deploy.artifacts.measurement import Profile
from qvit_deploy.tasks.task import Arrays


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A loaded model.

    Attributes:
        shape: declared, of the images: sizes, or names of open dimensions.
        run: images float32 [n, C, H, W] -> the outputs by name, each [n, ...].
    """

    shape: Sequence[int | str | None]
    run: Callable[[np.ndarray], Arrays]

    @property
    def static_batch(self) -> int | None:
        """The number of images it takes at a time, where that is fixed."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], int) else None


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


@dataclass(frozen=True)
class RunSettings:
    """How a file is to be run by a measurement.

    Attributes:
        batch: images per run; None for the file's own, or 1 where it takes any number.
        threads: of the runtime on a CPU.
        plugins: libraries that an engine calls.
    """

    batch: int | None = None
    threads: int = 1
    plugins: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SiteNames:
    """How the time of a file is given back to sites.

    Attributes:
        attention: output tensor -> site, of the attention products of an .onnx file.
        sites: names that the layers of an engine are given back to.
    """

    attention: Mapping[str, str] = field(default_factory=dict)
    sites: Sequence[str] = ()


@dataclass(frozen=True)
class RuntimeFacts:
    """What a measurement says of the runtime that a file runs in.

    Attributes:
        name: of the runtime, in settings and among the versions of the environment.
        flags: settings of the runtime that decide how fast it is.
        on_gpu: whether it runs on a GPU, where neither threads nor the yardstick of a CPU say anything.
        version: of the library, where the file runs in no other.
    """

    name: str
    flags: Mapping[str, str] = field(default_factory=dict)
    on_gpu: bool = False
    version: str | None = None


class Runtime(ABC):
    """A library that runs files. Values of it import nothing of the library before they are asked to load a file.

    Attributes:
        name: as measurements call it.
        evaluates: whether it opens files for `eval`; engines are compared with their file when they are built.
    """

    name: str
    evaluates: bool = True

    def claims(self, path: Path) -> bool:
        """Whether a file that is in no bundle is for this runtime, by its name."""
        return False

    @abstractmethod
    def open(self, model: Path | bytes, threads: int) -> OpenedModel:
        """Loads a file, or the bytes of one, for `eval`.

        Raises:
            InputError: the library is not installed or does not take the file.
        """

    @abstractmethod
    def opener(self, path: Path, how: RunSettings) -> Callable[[], Runner]:
        """What loads the file at `path` for a measurement, so that loading can be timed.

        Raises:
            InputError: the file cannot be run here; what is returned raises it when it cannot be loaded, or takes
                another batch.
        """

    @abstractmethod
    def profile(self, path: Path, how: RunSettings, names: SiteNames) -> Profile:
        """Where a run's time goes, by the library's own profiler.

        Raises:
            InputError: the file cannot be run here, or takes another batch.
        """

    def facts(self, path: Path, batch: int | None = None) -> RuntimeFacts:
        """What is known of the file at `path` before it is loaded.

        Raises:
            InputError: the file is damaged, for other batches, or for another device.
        """
        return RuntimeFacts(self.name)
