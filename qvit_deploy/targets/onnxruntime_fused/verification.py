"""Verifies the `onnxruntime-fused` file against the executor and the `onnxruntime` file.

1. **Proved**: the executor runs the Q/DQ graph on the fused file's own inputs of every site; the integer codes of both
   must be equal, every one, and every site's output agree to `OUTPUT_TOLERANCE` of its largest value. Where the file
   computes one token only, that token is compared.
2. **Proved**: in the graph that ONNX Runtime optimized, every quantized linear is one integer product, and every
   convolution but those that are faster in float.
3. **Checked**: the logits, both files running freely from the image on, have an SQNR of at least `MIN_SQNR_DB`, or are
   as near to the float model as `free_running` asks. (Attention adds its terms in another order, so last bits differ.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.forced_comparison import compare_forced, compared_tensors, probe_images, require_close
from qvit_deploy.targets.free_running import least_sqnr_db
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.targets.onnxruntime.tensors import fetched
from qvit_deploy.targets.onnxruntime_fused import NAME
from qvit_deploy.targets.onnxruntime_fused.convolution import why_in_float
from qvit_deploy.targets.onnxruntime_fused.verified import FusedVerification
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task

LOGARITHMIC = "logarithmic codes, which no integer product takes"
"""Why an attention product stays in float."""
MIN_SQNR_DB = 20.0
"""Smallest SQNR of the logits against the `onnxruntime` file's, both running freely: values that cross a rounding
boundary because of one last bit change some logits a little; a wrong graph changes all of them."""


def verify_fused(
    float_graph: Graph,
    emitted: EmittedGraph,
    fused: RuntimeModel,
    plan: Plan,
    images: Examples[np.ndarray],
    task: Task = CLASSIFY,
) -> FusedVerification:
    """Verifies `fused`, the model of `emit_fused(emitted)`, on `images`.

    Raises:
        CheckError: codes differ, a site's output is off, a linear or convolution is no integer product, or the logits
            are neither the `onnxruntime` file's nor as near to `float_graph`'s; the message names the site.
    """
    batch = emitted.static_batch
    probe = probe_images(images, batch)
    measured = _tensors(emitted, fused, plan, probe)
    forced = compare_forced(Executor(emitted), emitted, plan, probe, measured, fused.rows)
    reference, outputs = (
        target.outputs(target.session(model), images, batch) for model in (emitted.serialize(), fused.serialize())
    )
    task.require_finite(outputs, f"verification of {NAME}: the file")
    fusion = target.fusion(fused.serialize())
    reference_db = task.sqnr_db(reference, outputs)
    result = FusedVerification(
        **forced.fields(images, probe),
        reference_sqnr_db=reference_db,
        reference_agreement=task.agreement(reference, outputs),
        integer_products=fusion.integer_products,
        attentions=fused.attentions,
        rows=len(fused.rows),
        in_float=_in_float(emitted, plan),
    )
    require_close(forced, NAME)
    _require_integers(emitted, fused, plan, fusion, result.in_float)
    if reference_db < MIN_SQNR_DB:
        exact = target.outputs(target.session(float_graph.serialize()), images, batch)
        sqnr, reference_sqnr = task.sqnr_db(exact, outputs), task.sqnr_db(exact, reference)
        if sqnr < least_sqnr_db(reference_sqnr):
            raise CheckError(
                f"verification of {NAME}: its {task.words.signal} are {reference_db:.1f} dB from the onnxruntime "
                f"file's (limit {MIN_SQNR_DB:g} dB), and {sqnr:.1f} dB from the float model's, where those are "
                f"{reference_sqnr:.1f} dB"
            )
    return result


def _require_integers(
    emitted: EmittedGraph, fused: RuntimeModel, plan: Plan, fusion: target.Fusion, in_float: Mapping[str, str]
) -> None:
    """Raises CheckError unless ONNX Runtime runs every linear, every convolution that is not `in_float` and whatever
    the Q/DQ graph has as integer products."""
    linears = sum(p.site.kind == "linear" for p in plan.sites.values())
    if len(fused.linears) != linears:
        raise CheckError(f"verification of {NAME}: {len(fused.linears)} of {linears} linears were fused")
    missed = [
        name
        for name, p in plan.sites.items()
        if p.site.kind == "conv"
        and name not in in_float
        and fused.convolutions.get(emitted.sites[name].product) not in fusion.integer_weights
    ]
    if missed:
        raise CheckError(
            f"verification of {NAME}: ONNX Runtime runs {len(missed)} convolutions in float: {', '.join(missed[:3])}"
        )
    expected = target.fusion(emitted.serialize()).integer_products + len(fused.convolutions)
    if fusion.integer_products < expected:
        raise CheckError(
            f"verification of {NAME}: {fusion.integer_products} products run on integers, not {expected}: those of the "
            "onnxruntime file and the convolutions"
        )


def _in_float(emitted: EmittedGraph, plan: Plan) -> dict[str, str]:
    """Returns the sites that are planned to multiply in floating point -> why."""
    in_float: dict[str, str] = {}
    for name, site in plan.sites.items():
        product = emitted.product(name)
        reason = why_in_float(product) if product is not None and site.site.kind == "conv" else None
        if not site.grid.on_integers:
            reason = LOGARITHMIC
        if reason is not None:
            in_float[name] = reason
    return in_float


def _tensors(emitted: Graph, fused: RuntimeModel, plan: Plan, images: Examples[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of the Q/DQ graph, by its names, as the fused file computes them."""
    names = compared_tensors(emitted, plan)
    renamed = fused.renamed(names)
    fetch = list(dict.fromkeys(renamed))
    proto = onnx.ModelProto()
    proto.CopyFrom(fused.proto)
    tensors = dict(zip(fetch, fetched(proto, images, emitted.static_batch, fetch), strict=True))
    return {name: fused.signed(name, tensors[new]) for name, new in zip(names, renamed, strict=True)}
