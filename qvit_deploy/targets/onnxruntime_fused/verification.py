"""Verification of the `onnxruntime-fused` profile: its file against the executor and the `onnxruntime` file.

1. **Proved**: the executor runs the Q/DQ graph on the fused file's own inputs of every site; the integer codes of both
   must be equal, every one, and every site's output agree to `OUTPUT_TOLERANCE` of its largest value. Where the file
   computes one token only, that token is compared.
2. **Checked**: every quantized linear became one integer product; the logits, both files running freely from the image
   on, have at least `LOST_DB` of signal to noise. (Attention adds its terms in another order, so last bits differ.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.recipe import FUSED_PROFILE
from qvit_deploy.targets.forced_comparison import compare_forced, compared, require_close
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.targets.onnxruntime.verification import CodesCompared, comparison_fields, fetched, probe_images
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

LOST_DB = 20.0
"""Smallest signal to noise ratio of the logits against the `onnxruntime` file's, both running freely: values that cross
a rounding boundary because of one last bit change some logits a little; a wrong graph changes all of them."""


@dataclass(frozen=True)
class FusedVerification(CodesCompared):
    """How the `onnxruntime-fused` file compared with the executor and the `onnxruntime` file.

    Attributes:
        reference_sqnr_db, reference_agreement: logits against the `onnxruntime` file's, running freely.
        integer_products: products that run on integers in the graph ONNX Runtime optimized.
        attentions: attentions that became one operator.
        rows: tensors of which only the tokens that are read are computed.
    """

    reference_sqnr_db: float
    reference_agreement: float
    integer_products: int
    attentions: int
    rows: int


def verify_fused(
    emitted: Graph, fused: RuntimeModel, plan: Plan, images: np.ndarray, task: Task = CLASSIFY
) -> FusedVerification:
    """Verifies `fused`, made from `emitted`, on `images` float32 [n, C, H, W].

    Raises:
        CheckError: codes differ, a site's output is off, a linear is not one integer product, or the logits are not
            the `onnxruntime` file's; names the site.
    """
    batch = emitted.static_batch
    probe = probe_images(images, batch)
    measured = _tensors(emitted, fused, plan, probe)
    forced = compare_forced(Executor(emitted), emitted, plan, probe, measured, fused.rows)
    reference, outputs = (
        target.outputs(target.session(model), images, batch) for model in (emitted.serialize(), fused.serialize())
    )
    found = target.fusion(fused.serialize())
    result = FusedVerification(
        **comparison_fields(images, probe, forced),
        reference_sqnr_db=task.sqnr_db(reference, outputs),
        reference_agreement=task.agreement(reference, outputs),
        integer_products=found.integer_products,
        attentions=fused.attentions,
        rows=len(fused.rows),
    )
    require_close(forced, FUSED_PROFILE)
    linears = sum(p.site.kind == "linear" for p in plan.sites.values())
    if len(fused.linears) != linears:
        raise CheckError(f"verification of onnxruntime-fused: {len(fused.linears)} of {linears} linears were fused")
    expected = target.fusion(emitted.serialize()).integer_products
    if found.integer_products < expected:
        raise CheckError(
            f"verification of onnxruntime-fused: {found.integer_products} products run on integers, {expected} in the "
            "onnxruntime file"
        )
    if result.reference_sqnr_db < LOST_DB or not np.isfinite(task.signal(outputs)).all():
        raise CheckError(
            f"verification of onnxruntime-fused: its logits are {result.reference_sqnr_db:.1f} dB from the onnxruntime "
            f"file's (limit {LOST_DB:g} dB)"
        )
    return result


def _tensors(emitted: Graph, fused: RuntimeModel, plan: Plan, images: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors of the Q/DQ graph, by its names, as the fused file computes them."""
    wanted = compared(emitted, plan)
    fetch = list(dict.fromkeys(fused.renamed(wanted)))
    proto = onnx.ModelProto()
    proto.CopyFrom(fused.proto)
    found = dict(zip(fetch, fetched(proto, images, emitted.static_batch, fetch), strict=True))
    return {name: fused.signed(name, found[place]) for name, place in zip(wanted, fused.renamed(wanted), strict=True)}
