"""Verification of the `openvino` profile: its file, run by OpenVINO, against the executor and the `onnxruntime` file.

1. **Proved**: the executor runs the Q/DQ graph on OpenVINO's own inputs of every site. Its integer codes must be
   OpenVINO's, but for values within `TIE` steps of the middle between two codes, where either is right: OpenVINO
   multiplies by the reciprocal of a scale, which rounds differently in the last bit. Every site's output must agree to
   `OUTPUT_TOLERANCE` of its largest value, or of `CANCELLED` of the bias that it cancels. Where the file computes some
   tokens only, those are compared.
2. **Proved**: in the graph that runs, every quantized linear is one product of integers.
3. **Checked**: running freely, the file is at most `LOST_DB` worse against the float model than the `onnxruntime` one.

Codes are read from a second copy of the graph, with its tensors as outputs: OpenVINO shows none that it fused away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.recipe import OPENVINO_PROFILE
from qvit_deploy.targets.forced_comparison import compare_forced, compared, require_close
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.targets.onnxruntime.verification import CodesCompared, comparison_fields, probe_images
from qvit_deploy.targets.openvino.runtime import OpenVinoModel
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

FAILED = f"verification of {OPENVINO_PROFILE}"
TIE = 1e-4
"""Steps. Values of up to 128 steps, multiplied by a rounded reciprocal and moved by 128, are off by up to 5e-5."""
TIES_MOST = 1e-4
"""Largest share of codes that may be such ties: values lie within 5e-5 of a boundary 1e-4 of the time."""
LOST_DB = 3.0
"""What running freely may cost: noise as large as that of quantization itself."""
FLOAT32_DB = 60.0
"""Less noise than this is not asked for."""


@dataclass(frozen=True)
class OpenVinoVerification(CodesCompared):
    """How the `openvino` file compared with the executor and the `onnxruntime` file.

    Attributes:
        ties: codes that are the neighbour's, their value in the middle between the two.
        reference_sqnr_db, reference_agreement: logits against the `onnxruntime` file's, running freely.
        float_sqnr_db, float_agreement: logits against the float model's.
        integer_products: products that run on integers in the graph OpenVINO made.
        rows: tensors of which only the tokens that are read are computed.
    """

    ties: int
    reference_sqnr_db: float
    reference_agreement: float
    float_sqnr_db: float
    float_agreement: float
    integer_products: int
    rows: int


def verify_openvino(
    float_graph: Graph,
    emitted: Graph,
    written: RuntimeModel,
    plan: Plan,
    images: np.ndarray,
    task: Task = CLASSIFY,
) -> OpenVinoVerification:
    """Verifies `written`, made from `emitted`, on `images` float32 [n, C, H, W].

    Raises:
        InputError: openvino is not installed.
        CheckError: codes differ, a site's output is off, a linear is not one integer product, or the logits are not
            usable; names the site.
    """
    batch = emitted.static_batch
    probed = probe_images(images, batch)
    measured = _tensors(emitted, written, plan, probed)
    forced = compare_forced(Executor(emitted), emitted, plan, probed, measured, written.rows, TIE, written.biases)
    require_close(forced, OPENVINO_PROFILE)
    if forced.ties > TIES_MOST * forced.codes:
        raise CheckError(f"{FAILED}: {forced.ties} of {forced.codes} codes are rounded differently")
    runner = OpenVinoModel(written.serialize())
    linears = sum(p.site.kind == "linear" for p in plan.sites.values())
    if len(written.linears) != linears:
        raise CheckError(f"{FAILED}: {len(written.linears)} of {linears} linears were rewritten")
    on_integers = _require_integers(runner, written.linears)
    outputs = runner.outputs(images)
    reference, exact = (target.outputs(target.session(g.serialize()), images, batch) for g in (emitted, float_graph))
    if not np.isfinite(task.signal(outputs)).all():
        raise CheckError(f"{FAILED}: the file gives NaN or infinity")
    kept, wanted = task.sqnr_db(exact, outputs), task.sqnr_db(exact, reference)
    if kept < min(wanted, FLOAT32_DB) - LOST_DB:
        raise CheckError(
            f"{FAILED}: OpenVINO takes the SQNR against the float model from {wanted:.1f} to {kept:.1f} dB on "
            f"{len(images)} calibration images"
        )
    return OpenVinoVerification(
        **comparison_fields(images, probed, forced),
        ties=forced.ties,
        reference_sqnr_db=task.sqnr_db(reference, outputs),
        reference_agreement=task.agreement(reference, outputs),
        float_sqnr_db=kept,
        float_agreement=task.agreement(exact, outputs),
        integer_products=on_integers,
        rows=len(written.rows),
    )


def _tensors(emitted: Graph, written: RuntimeModel, plan: Plan, images: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors of the Q/DQ graph, by its names, as OpenVINO computes them."""
    wanted = compared(emitted, plan)
    places = written.renamed(wanted)
    fetch = list(dict.fromkeys(places))
    runner = OpenVinoModel(written.serialize(), batch=emitted.static_batch or len(images), fetch=fetch)
    found = dict(zip(fetch, runner.run(images), strict=True))
    return {name: written.signed(name, found[place]) for name, place in zip(wanted, places, strict=True)}


def _require_integers(runner: OpenVinoModel, linears: Sequence[str]) -> int:
    """How many products run on integers. Raises CheckError naming linears that do not."""
    made = [layer for layer in runner.layers() if layer.on_integers]
    # A product goes on under its name, or under that of a factor that it took in: `name/DequantizationMultiply`.
    fused = {name for layer in made for name in layer.originals}
    left = [name for name in linears if not any(f == name or f.startswith(f"{name}/") for f in fused)]
    if left:
        raise CheckError(
            f"{FAILED}: OpenVINO runs {len(left)} of {len(linears)} linears in floating point on this CPU: "
            + ", ".join(left[:3])
        )
    return len(made)
