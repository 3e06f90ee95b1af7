"""The target `openvino` and its runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qvit_deploy.artifacts.measurement import Profile
from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.lint import LintTarget
from qvit_deploy.targets.openvino import NAME
from qvit_deploy.targets.openvino.runtime import OpenVinoModel, openvino_precision, require_openvino, runs_in_openvino
from qvit_deploy.targets.openvino.verified import OpenVinoVerification
from qvit_deploy.targets.runtime import ModelSession, Runner, RunSettings, Runtime, RuntimeFacts, SiteNames
from qvit_deploy.targets.target import EmissionJob, Reading, Target, VerificationJob


class OpenVino(Runtime):
    """OpenVINO on the CPU: our files for it, and its own .xml files."""

    name = NAME

    def claims(self, path: Path) -> bool:
        return runs_in_openvino(path)

    def open(self, model: Path | bytes, threads: int) -> ModelSession:
        precision = openvino_precision(model) if isinstance(model, Path) else None
        compiled = OpenVinoModel(model, threads=threads, precision=precision)
        return ModelSession(compiled.inputs, compiled.outputs)

    def opener(self, path: Path, settings: RunSettings) -> Callable[[], Runner]:
        from qvit_deploy.targets.openvino.runner import OpenVinoRunner

        return lambda: OpenVinoRunner(path, settings, openvino_precision(path))

    def profile(self, path: Path, settings: RunSettings, names: SiteNames) -> Profile:
        from qvit_deploy.targets.openvino.profile import profile_openvino

        return profile_openvino(path, settings)

    def facts(self, path: Path, batch: int | None = None) -> RuntimeFacts:
        return RuntimeFacts(NAME, {"precision": openvino_precision(path) or "its own"})


class OpenVinoTarget(Target[RuntimeModel, OpenVinoVerification]):
    """The Q/DQ graph as OpenVINO's CPU plugin runs it fastest, in standard operators."""

    name = NAME
    summary = "standard operators, as OpenVINO's CPU plugin runs them fastest; needs openvino"
    library = NAME
    verified = OpenVinoVerification
    runtime = OpenVino()
    linted_for: LintTarget = "onnxruntime"

    def require(self, why: str) -> None:
        require_openvino(why)

    def emit(self, job: EmissionJob) -> RuntimeModel:
        from qvit_deploy.targets.openvino.emission import emit_openvino

        return emit_openvino(job.reference)

    def verify(self, emitted: RuntimeModel, job: VerificationJob) -> OpenVinoVerification:
        from qvit_deploy.targets.openvino.verification import verify_openvino

        return verify_openvino(job.float_graph, job.reference, emitted, job.plan, job.images, job.task)

    def line(self, verification: OpenVinoVerification) -> str:
        ties = f" ({verification.ties:,} in the middle of two)" if verification.ties else ""
        return (
            f"{verification.codes:,} codes equal given equal inputs{ties}; "
            f"{verification.integer_products} products run on integers; "
            f"SQNR {verification.float_sqnr_db:.1f} dB against float"
        )

    def reading(self, verification: OpenVinoVerification) -> Reading:
        ties, products = verification.ties, verification.integer_products
        result = f" but {ties:,} whose value lies in the middle between two codes" if ties else ""
        result += "" if products is None else f"; {products:,} products on integers"
        return Reading(
            "The file as OpenVINO runs it, and the executor, with the same tensors in front of every quantizer.", result
        )
