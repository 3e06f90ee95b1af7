"""Verification: the emitted file, run by the target's runtime, against the executor and against the float model.

Three questions, each answered with numbers:

1. Does the runtime compute the codes we planned? The executor is run on the emitted graph with every quantizer's
   input *forced* to the runtime's own tensor; then codes must be equal, integer for integer, and every site's output
   must agree to float tolerance. (Free-running graphs cannot be compared code by code: a difference of one float
   ulp upstream moves a value across a rounding boundary.)
2. Is it free-running close? Logits of the two, same images, nothing forced.
3. What did quantization cost? Logits against the float model: SQNR and top-1 agreement.
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
from qvit_deploy.targets.onnxruntime import runtime as target
from qvit_deploy.targets.onnxruntime.tensors import probe
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.metrics import relative_error
from qvit_deploy.tasks.task import Task


def verify(
    float_graph: Graph, emitted: EmittedGraph, plan: Plan, images: np.ndarray, task: Task = CLASSIFY
) -> ReferenceVerification:
    """Verifies the `onnxruntime` file of a plan on `images` float32 [n, C, H, W].

    Raises:
        CheckError: the graph is not what was planned, codes differ, a site's output is off, or a quantized linear was
            not fused; names the site.
    """
    _as_planned(emitted, plan)
    model = emitted.to_proto().SerializeToString()
    runtime = target.session(model)
    batch = emitted.static_batch
    outputs = target.outputs(runtime, images, batch)
    exact = executor_outputs(Executor(float_graph), images, batch)
    executor = Executor(emitted)
    simulated = executor_outputs(executor, images, batch)

    probed = probe_images(images, batch)
    forced = _forced(executor, emitted, plan, probed)
    fused = target.fusion(model)
    linears = sum(p.site.kind == "linear" for p in plan.sites.values())
    in_float = [name for name, p in plan.sites.items() if not p.grid.on_integers]
    expected = sum(p.site.kind != "conv" for p in plan.sites.values()) - len(in_float)
    result = ReferenceVerification(
        profile=NAME,
        **forced.fields(images, probed),
        logits_error=relative_error(task.signal(simulated), task.signal(outputs)),
        logits_agreement=task.agreement(simulated, outputs),
        float_sqnr_db=task.sqnr_db(exact, outputs),
        float_agreement=task.agreement(exact, outputs),
        integer_products=fused.integer_products,
        expected_integer_products=expected,
        float_products=tuple(in_float),
        optimized_ops=fused.ops,
    )
    require_close(forced, NAME)
    if fused.float_linears or fused.integer_products < linears:
        left = ", ".join(fused.float_linears[:3])
        raise CheckError(
            f"verification: ONNX Runtime fused {fused.integer_products} of {linears} quantized linears"
            + (f"; still in float: {left}" if left else "")
        )
    if fused.integer_products < expected:
        logging.getLogger(__name__).warning(
            "ONNX Runtime runs %d quantized attention products in float", expected - fused.integer_products
        )
    if fused.float_convolutions:
        logging.getLogger(__name__).warning(
            "ONNX Runtime runs %d quantized convolutions in float", len(fused.float_convolutions)
        )
    return result


def _as_planned(emitted: EmittedGraph, plan: Plan) -> None:
    """The graph holds the plan's weight codes and every scale of it. Raises CheckError naming the site."""
    for name, site in plan.sites.items():
        if not _is_planned(emitted, name, site):
            raise CheckError(f"verification: site {name!r} was not emitted as planned")


def _is_planned(emitted: EmittedGraph, name: str, site: SitePlan) -> bool:
    """Whether the product of `site` reads the values it was emitted with, made of the plan's numbers."""
    product = emitted.product(name)
    if product is None:
        return False
    made = [None if value is None else value.producer() for value in product.inputs[:2]]
    read = [None if node is None else node.outputs[0].name for node in made]
    good = read == [operand.value for operand in emitted.sites[name].operands]
    good = good and all(_is_scaled(node, grid) for node, (_, grid) in zip(made, site.operands, strict=False))
    if isinstance(site, WeightPlan):
        wanted = site.codes, site.weight_scale
        good = good and all(_is_equal(made[1], i, array) for i, array in enumerate(wanted))
    return good


def _is_scaled(made: ir.Node | None, grid: Grid) -> bool:
    """Whether the node that makes an operand multiplies by the number that the grid says."""
    op_type = "DequantizeLinear" if grid.on_integers else "Mul"
    right = made is not None and made.op_type == op_type
    return right and _is_equal(made, 1, np.asarray(grid.emitted_scale, np.float32))


def _is_equal(node: ir.Node | None, index: int, wanted: np.ndarray) -> bool:
    """Whether input `index` of the node is this constant."""
    found = None if node is None else constant(node.inputs[index])
    return found is not None and np.array_equal(wanted, found)


def _forced(executor: Executor, emitted: Graph, plan: Plan, images: np.ndarray) -> Comparison:
    fetch = compared_tensors(emitted, plan)
    return compare_forced(executor, emitted, plan, images, dict(zip(fetch, probe(emitted, images, fetch), strict=True)))
