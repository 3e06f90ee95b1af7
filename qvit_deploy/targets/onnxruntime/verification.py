"""Verifies the emitted file, run by ONNX Runtime, against the executor and against the float model.

Three questions are answered with numbers:

1. Does the runtime compute the planned codes? The executor is run on the emitted graph with every quantizer's
   input *forced* to the runtime's own tensor; then codes must be equal, integer for integer, and every site's output
   must agree to float tolerance. (Free-running graphs cannot be compared code by code: a difference of one float
   ulp upstream moves a value across a rounding boundary.)
2. Are the two close when they run freely? Logits on the same images are compared with nothing forced.
3. What does quantization cost? Logits are compared with the float model's: SQNR and top-1 agreement.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir

from qvit_deploy.artifacts.verification import ReferenceVerification
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan, SitePlan, WeightPlan
from qvit_deploy.targets.executor_outputs import executor_outputs
from qvit_deploy.targets.forced_comparison import (
    Comparison,
    compare_forced,
    compared_tensors,
    probe_images,
    require_close,
)
from qvit_deploy.targets.onnxruntime import NAME
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime
from qvit_deploy.targets.onnxruntime.runtime import Fusion
from qvit_deploy.targets.onnxruntime.tensors import probe
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task


def verify(
    float_graph: Graph, emitted: EmittedGraph, plan: Plan, images: Examples[np.ndarray], task: Task = CLASSIFY
) -> ReferenceVerification:
    """Verifies the `onnxruntime` file of a plan on `images`.

    Raises:
        CheckError: the graph is not what was planned, codes differ, a site's output is off, or a quantized linear was
            not fused; names the site.
    """
    _require_plan(emitted, plan)
    model = emitted.to_proto().SerializeToString()
    session = onnxruntime.session(model)
    batch = emitted.static_batch
    outputs = onnxruntime.outputs(session, images, batch)
    exact = executor_outputs(Executor(float_graph), images, batch)
    executor = Executor(emitted)
    simulated = executor_outputs(executor, images, batch)
    task.require_finite(outputs, "verification: the file")

    probed = probe_images(images, batch)
    sqnr = task.sqnr_by_output(exact, outputs)
    forced = _forced(executor, emitted, plan, probed)
    fused = onnxruntime.fusion(model)
    linears = sum(p.site.kind == "linear" for p in plan.sites.values())
    in_float = [n for n, p in plan.sites.items() if not p.grid.on_integers or _is_float_conv(n, p, emitted, fused)]
    expected = len(plan.sites) - len(in_float)
    result = ReferenceVerification(
        profile=NAME,
        **forced.fields(images, probed),
        logits_error=max(task.relative_errors(simulated, outputs).values()),
        logits_agreement=task.agreement(simulated, outputs),
        float_sqnr_db=min(sqnr.values()),
        sqnr_by_output=sqnr,
        float_agreement=task.agreement(exact, outputs),
        integer_products=fused.integer_products,
        expected_integer_products=expected,
        float_products=tuple(in_float),
        optimized_ops=fused.ops,
    )
    require_close(forced, NAME)
    if fused.float_linears or fused.integer_products < linears:
        unfused = ", ".join(fused.float_linears[:3])
        raise CheckError(
            f"verification: ONNX Runtime fused {fused.integer_products} of {linears} quantized linears"
            + (f"; still in float: {unfused}" if unfused else "")
        )
    if fused.integer_products < expected:
        logging.getLogger(__name__).warning(
            "ONNX Runtime runs %d quantized attention products in float", expected - fused.integer_products
        )
    return result


def _is_float_conv(name: str, plan: SitePlan, emitted: EmittedGraph, fused: Fusion) -> bool:
    """Returns whether a site is a convolution that ONNX Runtime runs in float: it has no integer kernel with a float
    output that it would fuse Q/DQ pairs to."""
    return plan.site.kind == "conv" and emitted.sites[name].operands[1].codes not in fused.integer_weights


def _require_plan(emitted: EmittedGraph, plan: Plan) -> None:
    """Raises CheckError naming a site whose weight codes or scales in the graph are not the plan's."""
    for name, site in plan.sites.items():
        if not _is_planned(emitted, name, site):
            raise CheckError(f"verification: site {name!r} was not emitted as planned")


def _is_planned(emitted: EmittedGraph, name: str, site: SitePlan) -> bool:
    """Returns whether the product of `site` reads the values emitted for it, with the plan's codes and scales."""
    product = emitted.product(name)
    if product is None:
        return False
    producers = [None if value is None else value.producer() for value in product.inputs[:2]]
    operands = [None if node is None else node.outputs[0].name for node in producers]
    if operands != [operand.value for operand in emitted.sites[name].operands]:
        return False
    if not all(_is_scaled(node, grid) for node, (_, grid) in zip(producers, site.operands, strict=False)):
        return False
    planned = (site.codes, site.weight_scale) if isinstance(site, WeightPlan) else ()
    return all(_is_equal(producers[1], i, array) for i, array in enumerate(planned))


def _is_scaled(producer: ir.Node | None, grid: Grid) -> bool:
    """Returns whether the node that produces an operand multiplies by the grid's scale."""
    op_type = "DequantizeLinear" if grid.on_integers else "Mul"
    scales = producer is not None and producer.op_type == op_type
    return scales and _is_equal(producer, 1, np.asarray(grid.emitted_scale, np.float32))


def _is_equal(node: ir.Node | None, index: int, planned: np.ndarray) -> bool:
    """Returns whether input `index` of the node is this constant."""
    array = None if node is None else constant(node.inputs[index])
    return array is not None and np.array_equal(planned, array)


def _forced(executor: Executor, emitted: Graph, plan: Plan, images: Examples[np.ndarray]) -> Comparison:
    fetch = compared_tensors(emitted, plan)
    return compare_forced(executor, emitted, plan, images, dict(zip(fetch, probe(emitted, images, fetch), strict=True)))
