"""The target `onnxruntime-fused`."""

from __future__ import annotations

from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.lint import LintTarget
from qvit_deploy.targets.onnxruntime.target import OnnxRuntime
from qvit_deploy.targets.onnxruntime_fused import NAME
from qvit_deploy.targets.onnxruntime_fused.verified import FusedVerification
from qvit_deploy.targets.target import EmissionJob, Reading, Target, VerificationJob, words_in_float


class FusedTarget(Target[RuntimeModel, FusedVerification]):
    """The Q/DQ graph in the operators that ONNX Runtime's CPU kernels really have."""

    name = NAME
    summary = "operators that only ONNX Runtime has, where its CPU kernels are faster"
    library = OnnxRuntime.name
    verified = FusedVerification
    runtime = OnnxRuntime()
    linted_for: LintTarget = "onnxruntime"

    def emit(self, job: EmissionJob) -> RuntimeModel:
        from qvit_deploy.targets.onnxruntime_fused.emission import emit_fused

        return emit_fused(job.reference)

    def verify(self, emitted: RuntimeModel, job: VerificationJob) -> FusedVerification:
        from qvit_deploy.targets.onnxruntime_fused.verification import verify_fused

        return verify_fused(job.float_graph, job.reference, emitted, job.plan, job.images, job.task)

    def line(self, verification: FusedVerification) -> str:
        return f"{verification.codes:,} codes equal given equal inputs{words_in_float(verification.in_float)}"

    def reading(self, verification: FusedVerification) -> Reading:
        meaning = "The file in ONNX Runtime's own operators, with the same tensors in front of every quantizer."
        return Reading(meaning, in_float=tuple(verification.in_float))
