"""The three targets in half precision, which share a plan and the float16 graph that only the plugin target packs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from qvit_deploy.artifacts.bundle import Bundle
from qvit_deploy.emit.local_functions import inline
from qvit_deploy.graph.graph import Graph
from qvit_deploy.lint import Finding, LintTarget, lint
from qvit_deploy.lint.tensorrt_versions import PLUGIN_WINS
from qvit_deploy.targets.onnxruntime.target import OnnxRuntime
from qvit_deploy.targets.runtime import Runtime
from qvit_deploy.targets.target import EmissionJob, Reading, Target, VerificationJob, file_of, words_in_float
from qvit_deploy.targets.tensorrt import TENSORRT, TENSORRT_PLUGIN
from qvit_deploy.targets.tensorrt.engine.files import HALF_TARGETS, files_for
from qvit_deploy.targets.tensorrt.engine.kind import FOR_NAMED_GPUS, ON_DEVICE, EngineKind
from qvit_deploy.targets.tensorrt.engine.run.engine_runtime import EngineRuntime
from qvit_deploy.targets.tensorrt.verified import HalfVerification

if TYPE_CHECKING:
    from qvit_deploy.quantize.plan import Plan
    from qvit_deploy.targets.tensorrt.half.emission import TensorrtGraph
    from qvit_deploy.targets.tensorrt.half.precision import HalfGraph

ENGINE_RUNTIME: Runtime = EngineRuntime()


class HalfTarget(Target["HalfGraph", HalfVerification]):
    """A Q/DQ graph in float16 between its quantizers, from which TensorRT builds engines.

    The file itself runs in ONNX Runtime on a CPU, where it is verified and evaluated.
    """

    verified = HalfVerification
    runtime = OnnxRuntime()
    half_precision = True

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        return (self.runtime, ENGINE_RUNTIME)

    def prepare(self, plan: Plan) -> Plan:
        """Returns `plan` with activation scales that float16 holds exactly."""
        from qvit_deploy.quantize.half import half_scales

        return half_scales(plan)

    def emit(self, job: EmissionJob) -> HalfGraph:
        return job.once(_half)

    def verify(self, emitted: HalfGraph, job: VerificationJob) -> HalfVerification:
        """Verifies as every target does, but once for targets that share a graph."""
        return job.once(_verified, emitted)

    def line(self, verification: HalfVerification) -> str:
        return (
            f"{verification.codes:,} codes equal given equal inputs, "
            f"{verification.free_codes_equal:.1%} running freely; "
            f"{verification.reference_sqnr_db:.1f} dB against the onnxruntime file"
            f"{words_in_float(verification.in_float)}"
        )

    def reading(self, verification: HalfVerification) -> Reading:
        meaning = (
            "The file in half precision and the one for ONNX Runtime, both run by ONNX Runtime with the same tensors "
            "in front of every quantizer. What an engine computes is checked when it is built on its device."
        )
        return Reading(meaning, free_codes_equal=verification.free_codes_equal, in_float=tuple(verification.in_float))

    def emit_part(self, graph: Graph, plan: Plan, ends: Collection[str]) -> bytes:
        half, _ = _half_part(graph, self.prepare(plan), ends)
        return half.serialize()


class EngineTarget(HalfTarget):
    """A target with a library of its own, which builds the engines that are measured."""

    on_gpu = True
    times_sites = True

    def __init__(self, kind: EngineKind, summary: str, linted_for: LintTarget) -> None:
        self.name, self.summary, self.linted_for = kind.name, summary, linted_for
        self.library, self.takes_plugins = kind.name, kind.takes_plugins

    def measured_file(self, bundle: Bundle, batch: int | None) -> Path:
        """Returns the engine of the bundle that fits the GPU at hand."""
        from qvit_deploy.targets.tensorrt.engine.run.choose import choose_engine

        return choose_engine(bundle, self.name, [file_of(name) for name in HALF_TARGETS], batch)

    def part_targets(self, plugins: Collection[Path]) -> tuple[str, ...]:
        super().part_targets(plugins)
        return files_for(self.name, plugins)

    def require_timing(self, why: str) -> None:
        from qvit_deploy.targets.tensorrt.engine.gpu import require_gpu
        from qvit_deploy.targets.tensorrt.engine.run.engine_runner import load_pycuda

        require_gpu(why)
        load_pycuda()  # only the first run would miss it, after all builds


class PluginTarget(HalfTarget):
    """A half-precision graph with packed weights in operators of our own, which TensorRT runs in a plugin library.

    Both libraries build engines from its file: TensorRT-RTX, which has no plugins, of the operators' function bodies.
    """

    name = TENSORRT_PLUGIN
    summary = "half precision with packed weights, for TensorRT with our plugins"
    library = TENSORRT
    linted_for: LintTarget = "tensorrt"
    calls_plugins = True

    def emit(self, job: EmissionJob) -> HalfGraph:
        from qvit_deploy.targets.tensorrt.packed.emission import pack_half

        return pack_half(job.once(_half), job.once(_float32).graph, job.plan)

    def lint(self, model: ir.Model) -> list[Finding]:
        """Lints the model as each library runs it: for TensorRT with plugins, for TensorRT-RTX with inlined bodies.

        TensorRT runs plugins in place of the bodies from 10.7 on; for older versions `build` removes the bodies.
        """
        return lint(model, "tensorrt", version=PLUGIN_WINS) + lint(inline(model.clone()), "tensorrt-rtx")

    def as_run(self, model: ir.Model) -> ir.Model:
        """Removes the function bodies, in whose place TensorRT runs plugins."""
        model.functions.clear()
        return model

    def emit_part(self, graph: Graph, plan: Plan, ends: Collection[str]) -> bytes:
        from qvit_deploy.targets.tensorrt.packed.emission import pack_half

        prepared = self.prepare(plan)
        half, emitted = _half_part(graph, prepared, ends)
        return pack_half(half, emitted.graph, prepared).serialize()


def _float32(job: EmissionJob) -> TensorrtGraph:
    from qvit_deploy.targets.tensorrt.half.emission import emit_tensorrt

    return emit_tensorrt(job.graph, job.plan)


def _half(job: EmissionJob) -> HalfGraph:
    """Converts the graph to float16 but for what that cannot hold, by magnitudes on the calibration images."""
    from qvit_deploy.calibrate.extremes import tensor_extremes
    from qvit_deploy.execute.executor import Executor
    from qvit_deploy.targets.tensorrt.half.precision import to_half

    emitted = job.once(_float32)
    with job.watch.stage("half", job.images) as advance:
        largest = tensor_extremes(Executor(emitted.graph), job.batches, advance)
    return to_half(emitted, largest)


def _verified(job: VerificationJob, half: HalfGraph) -> HalfVerification:
    from qvit_deploy.targets.tensorrt.verification import verify_half

    return verify_half(job.float_graph, job.reference, half, job.images, job.task)


def _half_part(graph: Graph, plan: Plan, ends: Collection[str]) -> tuple[HalfGraph, TensorrtGraph]:
    """Returns a part in float16 throughout, since no magnitudes are known, and the float32 graph of it."""
    from qvit_deploy.targets.tensorrt.half.emission import emit_tensorrt
    from qvit_deploy.targets.tensorrt.half.precision import to_half

    emitted = emit_tensorrt(graph, plan)
    return to_half(emitted, {}, ends), emitted


TENSORRT_TARGETS = (
    EngineTarget(ON_DEVICE, "half precision, for TensorRT engines on the device they are built on", "tensorrt"),
    EngineTarget(FOR_NAMED_GPUS, "half precision, for TensorRT-RTX engines of named GPUs", "tensorrt-rtx"),
    PluginTarget(),
)
