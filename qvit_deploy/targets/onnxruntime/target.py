"""The target `onnxruntime`, and the runtime that it shares with others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from qvit_deploy.artifacts.measurement import Profile
from qvit_deploy.artifacts.verification import ReferenceVerification
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.interface import static_batch
from qvit_deploy.lint import LintTarget
from qvit_deploy.targets.onnxruntime import NAME
from qvit_deploy.targets.runtime import ModelSession, Runner, RunSettings, Runtime, SiteNames
from qvit_deploy.targets.target import EmissionJob, Reading, Target, VerificationJob, words_in_float

if TYPE_CHECKING:
    from qvit_deploy.quantize.plan import Plan


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, which takes any .onnx file."""

    name = NAME

    def open(self, model: Path | bytes, threads: int) -> ModelSession:
        from qvit_deploy.targets.onnxruntime.runtime import inputs, outputs, session

        ort_session = session(model, threads)
        declared = inputs(ort_session)
        return ModelSession(declared, lambda images: outputs(ort_session, images, static_batch(declared)))

    def opener(self, path: Path, settings: RunSettings) -> Callable[[], Runner]:
        from qvit_deploy.targets.onnxruntime.runner import OnnxRuntimeRunner

        return lambda: OnnxRuntimeRunner(path, settings)

    def profile(self, path: Path, settings: RunSettings, names: SiteNames) -> Profile:
        from qvit_deploy.targets.onnxruntime.profile import profile

        return profile(path, settings, names.attention)


class OnnxRuntimeTarget(Target[EmittedGraph, ReferenceVerification]):
    """The Q/DQ graph itself, which ONNX Runtime fuses into integer products."""

    name = NAME
    summary = "the Q/DQ graph, for ONNX Runtime and any other program that reads ONNX"
    library = NAME
    verified = ReferenceVerification
    runtime = OnnxRuntime()
    linted_for: LintTarget = "onnxruntime"
    times_sites = True

    def emit(self, job: EmissionJob) -> EmittedGraph:
        return job.reference

    def verify(self, emitted: EmittedGraph, job: VerificationJob) -> ReferenceVerification:
        from qvit_deploy.targets.onnxruntime.verification import verify

        return verify(job.float_graph, emitted, job.plan, job.images, job.task)

    def line(self, verification: ReferenceVerification) -> str:
        return (
            f"{verification.codes:,} codes equal in ONNX Runtime and the executor; "
            f"{verification.integer_products} of {verification.expected_integer_products} products run on integers"
            f"{words_in_float(verification.float_products)}"
        )

    def reading(self, verification: ReferenceVerification) -> Reading:
        meaning = "The file as ONNX Runtime runs it, and the executor, fed alike."
        return Reading(meaning, in_float=verification.float_products)

    def emit_part(self, graph: Graph, plan: Plan, ends: Collection[str]) -> bytes:
        from qvit_deploy.emit.qdq import emit_qdq

        return emit_qdq(graph, plan).serialize()
