"""What a target is: where a model will run, as a value that the compiler asks and never compares.

A target writes its file from a plan, verifies it, says what the lint holds it to, which runtime opens it, and how a
person reads what was proved. A new one is a folder with a `Target` in it and a line in `targets.registry`.

Values of targets are imported where neither torch nor a runtime is installed: what emits, verifies and runs is imported
inside of the methods.
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
    """What a target writes."""

    @property
    def model(self) -> ir.Model:
        """The model, as the lint reads it."""

    def serialize(self) -> bytes:
        """The file. Equal models give equal bytes."""


@dataclass(frozen=True, eq=False)
class Job:
    """Work for several targets of one compile."""

    _results: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, work: Callable[..., Result], *of: Hashable) -> Result:
        """`work(self, *of)`, done for the first target that asks and shared with all others that do."""
        key = (work, *of)
        if key not in self._results:
            self._results[key] = work(self, *of)
        result: Result = self._results[key]
        return result


@dataclass(frozen=True, eq=False, kw_only=True)
class EmissionJob(Job):
    """What targets write their files from.

    Attributes:
        graph: the calibrated model, float32.
        plan: what `Target.prepare` of all targets made of it.
        reference: the plan as a Q/DQ graph, the one that every other file is verified against.
        batches: the calibration images, float32 [b, C, H, W].
        images: how many they are.
    """

    graph: Graph
    plan: Plan
    reference: EmittedGraph
    batches: Iterable[torch.Tensor]
    images: int
    watch: Stopwatch


@dataclass(frozen=True, eq=False, kw_only=True)
class VerificationJob(Job):
    """What files are verified with.

    Attributes:
        float_graph: the model before quantization.
        reference: the Q/DQ graph of `plan` for the executor and ONNX Runtime.
        images: calibration images, float32 [n, C, H, W].
        task: what the outputs mean.
    """

    float_graph: Graph
    reference: EmittedGraph
    plan: Plan
    images: np.ndarray
    task: Task


@dataclass(frozen=True)
class Reading:
    """How a person reads the verification of a file in the report, behind the number of codes that were compared.

    Attributes:
        meaning: what the comparison says, a sentence.
        result: further results, each begun with what parts it from the one before.
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
        verified: the type of what `verify` returns.
        runtime: what opens its file.
        linted_for: the rules that its file is held to where nobody says which.
        half_precision: whether its file is float16 between the quantizers, and so are the ends of its site models.
        calls_plugins: whether its file calls operators of our own, for which TensorRT loads a library.
        on_gpu: whether what `bench` measures is an engine on a GPU, in place of the file on a CPU.
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
        """Name of its file in a bundle."""
        return file_of(self.name)

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """What opens its file, and what is built from it."""
        return (self.runtime,)

    def require(self, why: str) -> None:
        """Raises InputError, which begins with `why`, when something that emits or verifies is not installed."""

    def prepare(self, plan: Plan) -> Plan:
        """`plan` with what this target needs of it; the plan of all files of a bundle is the same."""
        return plan

    @abstractmethod
    def emit(self, job: EmissionJob) -> Emitted:
        """Writes its model."""

    @abstractmethod
    def verify(self, emitted: Emitted, job: VerificationJob) -> Verified:
        """Proves that `emitted` computes what was planned.

        Raises:
            CheckError: it does not; names the site.
        """

    def lint(self, model: ir.Model) -> list[Finding]:
        """What the lint says of a model that was just emitted, errors first."""
        return lint(model, self.linted_for, version=OLDEST_TENSORRT)

    def as_run(self, model: ir.Model) -> ir.Model:
        """`model`, its file as it was read, with what its runtime runs; for a description."""
        return model

    @abstractmethod
    def line(self, found: Verified) -> str:
        """What was proved, in one line for the command line."""

    @abstractmethod
    def reading(self, found: Verified) -> Reading:
        """What was proved, for the report. A manifest of an earlier version may lack any number of `found`."""

    def read(self, found: FileVerification) -> Verified:
        """What a manifest says of its file, typed. Raises pydantic's ValidationError."""
        return self.verified.model_validate(found.model_dump())

    def measured_file(self, bundle: Bundle, batch: int | None) -> Path:
        """What `bench` measures of a bundle: the file, or an engine that was built from it.

        Raises:
            BundleError: the bundle has no such file.
            InputError: the engine cannot be run here.
        """
        return bundle.path_of(self.file)

    def emit_part(self, graph: Graph, plan: Plan, ends: Collection[str]) -> bytes:
        """The file of a part of a network, such as one site, whose weights are random: nothing was measured.

        Args:
            ends: inputs and outputs that stand in the middle of the network.

        Raises:
            InputError: this target has no such files.
        """
        raise InputError(f"sites cannot be timed alone on {self.name}")

    def part_targets(self, plugins: Collection[Path]) -> tuple[str, ...]:
        """The targets whose files sites are timed in on this one, by default the first that a bundle has a file for.

        Args:
            plugins: libraries that are to run them.

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
"""What stands in place of a target's name in that of the float model's file."""


def file_of(name: str) -> str:
    """Name in a bundle of the file for the target of this name, and of the float model for `FLOAT`."""
    return f"model.{name}.onnx"
