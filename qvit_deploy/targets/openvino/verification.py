"""Verifies the `openvino` file, run by OpenVINO, against the executor and the `onnxruntime` file.

1. **Proved**: the executor runs the Q/DQ graph on OpenVINO's own inputs of every site. Its integer codes must be
   OpenVINO's, except for values within `TIE` steps of the middle between two codes, where either is right: OpenVINO
   multiplies by the reciprocal of a scale, which rounds differently in the last bit. Every site's output must agree to
   `OUTPUT_TOLERANCE` of its largest value, or of `CANCELLED` of the bias that it cancels. Where the file computes some
   tokens only, those are compared.
2. **Proved**: in the graph that runs, every quantized linear is one product of integers.
3. **Checked**: running freely, the file loses at most `free_running.MAX_SQNR_LOSS_DB` against the float model compared
   with the `onnxruntime` file.

Codes are read from a second copy of the graph that has them as outputs: OpenVINO hides tensors that it fused away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.forced_comparison import compare_forced, compared_tensors, probe_images, require_close
from qvit_deploy.targets.free_running import least_sqnr_db
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.targets.openvino import NAME
from qvit_deploy.targets.openvino.isolated import Probe, Request, ask
from qvit_deploy.targets.openvino.runtime import Layer
from qvit_deploy.targets.openvino.verified import OpenVinoVerification
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

FAILED = f"verification of {NAME}"
TIE = 1e-4
"""Quantization steps. Values of up to 128 steps, multiplied by a rounded reciprocal and shifted by 128, are off by up
to 5e-5."""
MAX_TIE_SHARE = 1e-4
"""Largest share of codes that may be such ties: values lie within 5e-5 of a boundary 1e-4 of the time."""


def verify_openvino(
    float_graph: Graph,
    emitted: Graph,
    rewritten: RuntimeModel,
    plan: Plan,
    images: Examples[np.ndarray],
    task: Task = CLASSIFY,
) -> OpenVinoVerification:
    """Verifies `rewritten`, the model of `emit_openvino(emitted)`, on `images`.

    Raises:
        InputError: openvino is not installed.
        CheckError: OpenVINO refuses the file or crashes on it, codes differ, a site's output is off, a linear is not
            one integer product, or the logits are too noisy; the message names the site.
    """
    batch = emitted.static_batch
    probes = probe_images(images, batch)
    names = compared_tensors(emitted, plan)
    renamed = rewritten.renamed(names)
    probe = Probe(rewritten.probed(), probes, batch or len(probes), tuple(dict.fromkeys(renamed)))
    found = ask(Request(rewritten.serialize(), images, probe))
    pairs = zip(names, renamed, strict=True)
    measured = {name: rewritten.signed(name, found.tensors[new]) for name, new in pairs}
    forced = compare_forced(Executor(emitted), emitted, plan, probes, measured, rewritten.rows, TIE, rewritten.biases)
    require_close(forced, NAME)
    if forced.ties > MAX_TIE_SHARE * forced.codes:
        raise CheckError(f"{FAILED}: {forced.ties} of {forced.codes} codes are rounded differently")
    linears = sum(p.site.kind == "linear" for p in plan.sites.values())
    if len(rewritten.linears) != linears:
        raise CheckError(f"{FAILED}: {len(rewritten.linears)} of {linears} linears were rewritten")
    on_integers = _require_integers(found.layers, rewritten.linears)
    outputs = found.outputs
    reference, exact = (target.outputs(target.session(g.serialize()), images, batch) for g in (emitted, float_graph))
    task.require_finite(outputs, f"{FAILED}: the file")
    sqnr, reference_sqnr = task.sqnr_db(exact, outputs), task.sqnr_db(exact, reference)
    if sqnr < least_sqnr_db(reference_sqnr):
        raise CheckError(
            f"{FAILED}: OpenVINO takes the SQNR against the float model from {reference_sqnr:.1f} to {sqnr:.1f} dB on "
            f"{len(images)} images"
        )
    return OpenVinoVerification(
        **forced.fields(images, probes),
        ties=forced.ties,
        reference_sqnr_db=task.sqnr_db(reference, outputs),
        reference_agreement=task.agreement(reference, outputs),
        float_sqnr_db=sqnr,
        float_agreement=task.agreement(exact, outputs),
        integer_products=on_integers,
        rows=len(rewritten.rows),
    )


def _require_integers(layers: Sequence[Layer], linears: Sequence[str]) -> int:
    """Returns how many products run on integers. Raises CheckError naming linears that do not."""
    integer_layers = [layer for layer in layers if layer.on_integers]
    # A product keeps its name, or has that of a factor that was fused into it: `name/DequantizationMultiply`.
    fused = {name for layer in integer_layers for name in layer.originals}
    in_float = [name for name in linears if not any(f == name or f.startswith(f"{name}/") for f in fused)]
    if in_float:
        raise CheckError(
            f"{FAILED}: OpenVINO runs {len(in_float)} of {len(linears)} linears in floating point on this CPU: "
            + ", ".join(in_float[:3])
        )
    return len(integer_layers)
