"""Which sites of a plan TensorRT runs on integers, and which its targets leave in floating point, with the reason.

What stays in float has its unrounded weights: rounding them buys nothing where nothing multiplies integers.
Rules (facts of TensorRT 10 and 11, as NVIDIA's ModelOpt applies them):
1. no integer matrix product with fewer than 16 columns;
2. attention products on integers only where TensorRT fuses the whole attention: both products, one after the other
   with nothing but the softmax between, one plain quantizer on each of the four operands, at most 512 keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.query import nodes_by_output, producer, sole_reader
from qvit_deploy.graph.sites import SMALLEST_REDUCTION
from qvit_deploy.quantize.plan import Plan, ProductPlan, WeightPlan

SMALLEST_COLUMNS = 16
"""GEMMs with N < 16 have no integer kernel (as those with K < 16, `graph.sites.SMALLEST_REDUCTION`)."""
LONGEST_SEQUENCE = 512
"""Keys of the longest attention that TensorRT fuses on int8."""


@dataclass(frozen=True, eq=False)
class TensorrtGraph:
    """The float32 graph that the files for TensorRT are written from.

    Attributes:
        graph: float32 between its quantizers; `targets.tensorrt.half.precision` converts most of it to float16.
        plan: the sites that are quantized in it.
        in_float: names of the other sites -> why they are not quantized.
    """

    graph: EmittedGraph
    plan: Plan
    in_float: dict[str, str]


def emit_tensorrt(graph: Graph, plan: Plan) -> TensorrtGraph:
    """Emits into a copy of `graph` those sites of `plan` that TensorRT runs on integers."""
    by_output = nodes_by_output(graph)
    in_float: dict[str, str] = {}
    for name, weight_plan in plan.weights().items():
        reason = _narrow_output(weight_plan)
        if reason is not None:
            in_float[name] = reason
    for name, site in plan.products().items():
        if site.site.kind == "matmul_qk":
            in_float |= _attention_in_float(name, by_output[site.site.product], plan)
        elif site.site.kind == "matmul_av" and name not in in_float:
            first = _scores_product(by_output[site.site.product])
            if first is None or not any(s.site.product == first.outputs[0].name for s in plan.sites.values()):
                in_float[name] = "its attention is not the one that TensorRT fuses: no product right before the softmax"
    quantized = Plan({name: site for name, site in plan.sites.items() if name not in in_float})
    return TensorrtGraph(emit_qdq(graph, quantized, for_onnxruntime=False), quantized, in_float)


def _narrow_output(plan: WeightPlan) -> str | None:
    """Returns why the output is too narrow for an integer kernel, or None if it is not."""
    columns = plan.codes.shape[1 if plan.site.kind == "linear" else 0]
    if columns < SMALLEST_COLUMNS:
        return f"{columns} output channels, and no integer kernel takes fewer than {SMALLEST_COLUMNS}"
    return None


def _attention_in_float(name: str, product: ir.Node, plan: Plan) -> dict[str, str]:
    """Returns {} if TensorRT fuses the attention that `product`, q k^T, begins; else both its sites with the reason."""
    second = _values_product(product)
    site = None if second is None else _site_of(second, plan)
    if second is None:
        return {
            name: "its attention is not the one that TensorRT fuses: something stands between the first product and "
            "the softmax"
        }
    if site is None:
        return {name: "the product with the values is not quantized, and TensorRT fuses both or none"}
    first = plan.products()[name]
    reason = _unfused_sizes(product, second) or _unfused_grids(first, site)
    return {} if reason is None else {name: reason, site.site.name: reason}


def _unfused_sizes(first: ir.Node, second: ir.Node) -> str | None:
    """Returns why TensorRT does not fuse an attention of these sizes, or None if it does."""
    scores, query, values = first.outputs[0].shape, first.inputs[0], second.outputs[0].shape
    if scores is None or query is None or query.shape is None or values is None:
        return "its sizes are not known"
    keys, depth, width = scores[-1], query.shape[-1], values[-1]
    if not isinstance(keys, int) or not isinstance(depth, int) or not isinstance(width, int):
        return "its sizes are not known"
    if keys > LONGEST_SEQUENCE:
        return f"{keys} keys, and TensorRT fuses int8 attention up to {LONGEST_SEQUENCE}"
    if min(keys, depth, width) < SMALLEST_REDUCTION:
        return f"a product of {min(keys, depth, width)}, and no integer kernel takes fewer than {SMALLEST_REDUCTION}"
    return None


def _unfused_grids(first: ProductPlan, second: ProductPlan) -> str | None:
    """Returns why TensorRT does not fuse an attention whose operands have these grids, or None if it does."""
    operands = {
        "query": first.grid, "key": first.second_grid, "probabilities": second.grid, "value": second.second_grid,
    }  # fmt: skip
    for operand, grid in operands.items():
        if not grid.is_plain:
            kind = "shifted grid" if grid.shift else type(grid).__name__
            return f"the codes of its {operand} ({kind}) need more than one QuantizeLinear, which breaks the fusion"
    return None


def _values_product(product: ir.Node) -> ir.Node | None:
    """Returns the product that reads softmax(product), or None."""
    softmax = sole_reader(product.outputs[0], "Softmax")
    return None if softmax is None else sole_reader(softmax.outputs[0], "MatMul")


def _scores_product(product: ir.Node) -> ir.Node | None:
    """Returns the MatMul right before the softmax that `product` reads, or None."""
    node: ir.Node | None = product
    for op_type in ("Softmax", "MatMul"):
        node = None if node is None else producer(node.inputs[0], op_type)
    return node


def _site_of(node: ir.Node, plan: Plan) -> ProductPlan | None:
    return next((s for s in plan.products().values() if s.site.product == node.outputs[0].name), None)
