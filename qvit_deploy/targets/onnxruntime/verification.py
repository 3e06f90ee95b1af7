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
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.grid import Grid
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.quantize.ranges.attention import inner_grid
from qvit_deploy.quantize.ranges.softmax import LogGrid
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
    float_graph: Graph, emitted: Graph, plan: Plan, images: np.ndarray, task: Task = CLASSIFY
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
    in_float = [name for name, p in plan.sites.items() if isinstance(inner_grid(p.grid), LogGrid)]
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


def _as_planned(emitted: Graph, plan: Plan) -> None:
    """The graph holds the plan's weight codes and every scale of it. Raises CheckError naming the site."""
    readers = {v.name: n for n in emitted.nodes() if n.op_type in ("MatMul", "Conv") for v in n.outputs}
    for site in plan.sites.values():
        # Emitting may put a bias or a Squeeze behind the product, so that it goes by another name.
        output = site.site.output
        names = [site.site.product, f"{output}.raw", f"{output}.row"]
        product = next((readers[n] for n in names if n in readers), None)
        planned = [_grid_of(product, 0, site.grid)]
        if site.second_grid is not None:
            planned.append(_grid_of(product, 1, site.second_grid))
        elif site.codes is not None and site.weight_scale is not None:
            planned += [(site.codes, _read(product, 1, 0)), (site.weight_scale, _read(product, 1, 1))]
        if any(found is None or not np.array_equal(wanted, found) for wanted, found in planned):
            raise CheckError(f"verification: site {site.site.name!r} was not emitted as planned")


def _grid_of(product: ir.Node | None, operand: int, grid: Grid) -> tuple[np.ndarray, np.ndarray | None]:
    """(the number that scales the operand's codes, the one found in the graph)."""
    inner = inner_grid(grid)
    if not isinstance(inner, LogGrid):
        return np.asarray(inner.scale, np.float32), _read(product, operand, 1)
    value = product.inputs[operand] if product is not None else None
    scaled = value.producer() if value is not None else None
    found = constant(scaled.inputs[1]) if scaled is not None and scaled.op_type == "Mul" else None
    return np.asarray(inner.largest, np.float32), found


def _read(product: ir.Node | None, operand: int, parameter: int) -> np.ndarray | None:
    """Input `parameter` (0 codes, 1 scale) of the DequantizeLinear behind an operand, when it is constant."""
    value = product.inputs[operand] if product is not None else None
    dequantize = value.producer() if value is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    return constant(dequantize.inputs[parameter])


def _forced(executor: Executor, emitted: Graph, plan: Plan, images: np.ndarray) -> Comparison:
    fetch = compared_tensors(emitted, plan)
    return compare_forced(executor, emitted, plan, images, dict(zip(fetch, probe(emitted, images, fetch), strict=True)))
