"""What a target is: where a model will run, as a value that the compiler asks and never compares.

A target writes its file from a plan, verifies it, names the lint rules and the runtime of its file, and explains its
verification to a person. A new one is a folder with a `Target` in it and a line in `targets.registry`.

Values of targets are imported where neither torch nor a runtime is installed: methods import the code that emits,
verifies and runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import onnx_ir as ir

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.artifacts.verification import FileVerification
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.lint import OLDEST_TENSORRT, Finding, LintTarget, lint
from qvit_deploy.progress import Stopwatch
from qvit_deploy.targets.runtime import Runtime
from qvit_deploy.tasks.task import Task

if TYPE_CHECKING:
    import torch

    from qvit_deploy.quantize.plan import Plan

Result = TypeVar("Result")


class EmittedModel(Protocol):
    """A model that a target has emitted."""

    @property
    def model(self) -> ir.Model:
        """Returns the model, as the lint reads it."""

    def serialize(self) -> bytes:
        """Returns the content of the file. Equal models give equal bytes."""


@dataclass(frozen=True, eq=False)
class Job:
    """The input of a step of a compile that runs for several targets, and the results that they share."""

    _results: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, work: Callable[..., Result], *of: Hashable) -> Result:
        """Returns `work(self, *of)`, which is computed for the first target that asks and shared with all others."""
        key = (work, *of)
        if key not in self._results:
            self._results[key] = work(self, *of)
        result: Result = self._results[key]
        return result


@dataclass(frozen=True, eq=False, kw_only=True)
class EmissionJob(Job):
    """The input of `Target.emit`.

    Attributes:
        graph: the calibrated model, float32.
        plan: the plan after `Target.prepare` of every target.
        reference: the plan as a Q/DQ graph, which every other file is verified against.
        batches: the calibration images.
        images: number of calibration images.
        watch: times stages and reports their progress.
    """

    graph: Graph
    plan: Plan
    reference: EmittedGraph
    batches: Iterable[Examples[torch.Tensor]]
    images: int
    watch: Stopwatch


@dataclass(frozen=True, eq=False, kw_only=True)
class VerificationJob(Job):
    """The input of `Target.verify`.

    Attributes:
        float_graph: the model before quantization.
        reference: the Q/DQ graph of `plan` for the executor and ONNX Runtime.
        images: images to compare outputs on; nothing was fitted to them where DATA has enough.
        task: what the outputs mean.
    """

    float_graph: Graph
    reference: EmittedGraph
    plan: Plan
    images: Examples[np.ndarray]
    task: Task


@dataclass(frozen=True)
class Reading:
    """The verification of a file as the report words it, after the number of compared codes.

    Attributes:
        meaning: what the comparison proves, a sentence.
        result: further results, each beginning with its own separator, such as "; ".
        free_codes_equal: share of codes that are equal when both files run freely.
        in_float: names of sites that stay in floating point.
    """

    meaning: str
    result: str = ""
    free_codes_equal: float | None = None
    in_float: Collection[str] = ()


Emitted = TypeVar("Emitted", bound=EmittedModel)
Verified = TypeVar("Verified", bound=FileVerification)


class Target(ABC, Generic[Emitted, Verified]):
    """One target.

    Attributes:
        name: on the command line, in file names and in manifests.
        summary: one line of help.
        library: distribution whose version decides how fast its file runs; recorded with measurements.
        verified: the type that `verify` returns.
        runtime: the runtime of its file.
        linted_for: the lint rules for its file where the user names none.
        half_precision: whether its file is float16 between the quantizers, and so are the ends of its site models.
        calls_plugins: whether its file calls operators of our own, for which TensorRT loads a library.
        on_gpu: whether `bench` measures an engine on a GPU in place of the file on a CPU.
        times_sites: whether sites are timed alone on it (`emit_part`).
        takes_plugins: whether the library that runs it loads plugins.
    """

    name: str
    summary: str
    library: str
    verified: type[Verified]
    runtime: Runtime
    linted_for: LintTarget
    half_precision: bool = False
    calls_plugins: bool = False
    on_gpu: bool = False
    times_sites: bool = False
    takes_plugins: bool = False

    @property
    def file(self) -> str:
        """Returns the name of its file in a bundle."""
        return file_of(self.name)

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """Returns the runtimes of its file and of what is built from the file."""
        return (self.runtime,)

    def require(self, why: str) -> None:
        """Raises InputError, which begins with `why`, if a library that emits or verifies is not installed."""

    def prepare(self, plan: Plan) -> Plan:
        """Returns `plan` changed as this target needs it; all files of a bundle share the result."""
        return plan

    @abstractmethod
    def emit(self, job: EmissionJob) -> Emitted:
        """Emits its model."""

    @abstractmethod
    def verify(self, emitted: Emitted, job: VerificationJob) -> Verified:
        """Proves that `emitted` computes what was planned.

        Raises:
            CheckError: it does not; names the site.
        """

    def lint(self, model: ir.Model) -> list[Finding]:
        """Returns the lint's findings in a model that was just emitted, errors first."""
        return lint(model, self.linted_for, version=OLDEST_TENSORRT)

    def as_run(self, model: ir.Model) -> ir.Model:
        """Returns `model`, read from its file, as its runtime runs it; for a description."""
        return model

    @abstractmethod
    def line(self, verification: Verified) -> str:
        """Returns the verification in one line, for the command line."""

    @abstractmethod
    def reading(self, verification: Verified) -> Reading:
        """Returns the verification for the report. In a manifest of an earlier version any number may be missing."""

    def read(self, verification: FileVerification) -> Verified:
        """Returns the verification in a manifest as the type of this target. Raises pydantic's ValidationError."""
        return self.verified.model_validate(verification.model_dump())

    def measured_file(self, bundle: Bundle, batch: int | None) -> Path:
        """Returns the file of a bundle that `bench` measures: the target's, or an engine that was built from it.

        Raises:
            BundleError: the bundle has no such file.
            InputError: the engine cannot be run here.
        """
        return bundle.path_of(self.file)

    def emit_part(self, graph: Graph, plan: Plan, ends: Collection[str]) -> bytes:
        """Returns the file of a part of a network, such as one site, whose weights are random and not calibrated.

        Args:
            ends: inputs and outputs that are intermediate tensors of the network.

        Raises:
            InputError: this target has no such files.
        """
        raise InputError(f"sites cannot be timed alone on {self.name}")

    def part_targets(self, plugins: Collection[Path]) -> tuple[str, ...]:
        """Returns the targets whose files may be followed when sites are timed, in order of preference.

        The first that a bundle has a file for is taken.

        Args:
            plugins: plugin libraries that will run the sites.

        Raises:
            InputError: this target takes no plugins.
        """
        if plugins and not self.takes_plugins:
            raise InputError(f"bench-sites --target {self.name} takes no plugins: leave out --plugin")
        return (self.name,)

    def require_timing(self, why: str) -> None:
        """Raises InputError, which begins with `why`, if files cannot be timed on this machine."""


AnyTarget = Target[Any, Any]


FLOAT = "float"
"""Stands in place of a target's name in the name of the float model's file."""


def words_in_float(sites: Collection[str]) -> str:
    """Returns "; 2 sites stay in float" for the line of a verification; nothing where none does."""
    return f"; {len(sites)} site{'s stay' if len(sites) > 1 else ' stays'} in float" if sites else ""


def file_of(name: str) -> str:
    """Returns the name in a bundle of the file of the target of this name, or of the float model for `FLOAT`."""
    return f"model.{name}.onnx"
