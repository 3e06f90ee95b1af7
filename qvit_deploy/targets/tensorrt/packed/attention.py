"""Packs the second half of an attention with logarithmic codes for the target `tensorrt-plugin`, as one operator.

`qvit::SoftmaxLog2AV` is an ONNX function like those of `packed.linear`: softmax, the codes of a `LogGrid`, and the
product with the quantized values. A runtime that has the plugin runs its kernel; the body computes the same codes.

    out = SoftmaxLog2AV <steps, bits, largest, unit, by_row, v_scale, v_low, v_high, v_bits, bounds, powers,
                         plugin_namespace, plugin_version> (scores, values)

scores [.., t, s] and values [.., s, d] are both float16 or both float32, as is out [.., t, d]. `unit` is
largest / 65535; `by_row` (0 or 1) divides every row of probabilities by its largest before they are rounded; v_low and
v_high are the ends of the v_bits grid times v_scale. `bounds` and `powers` are for the body, in place of the table over
65,536 values (`probabilities.log_table`): the smallest u of every code, and what each code stands for.

**The same codes.** u comes from one division and one rounding. A logarithm of u guesses its code, and two comparisons
with the integer bounds around the guess make it exact, whatever the last bits of the logarithm are.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.emit.editor import Editor
from qvit_deploy.emit.names import codes_name
from qvit_deploy.formats.grids.grid import LogCodes, OneScale
from qvit_deploy.formats.grids.probabilities import FINE_TOP, log_powers, log_table
from qvit_deploy.graph.edit import remove_unused
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.query import nodes_by_output
from qvit_deploy.quantize.plan import Plan, ProductPlan, SitePlan
from qvit_deploy.targets.tensorrt.half.keep_fp32 import FULL, HALF
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.calls import before_widening, call, declare, widened
from qvit_deploy.targets.tensorrt.packed.function_body import Body
from qvit_deploy.targets.tensorrt.packed.packing import PACKED_BITS

OPERATOR = "SoftmaxLog2AV"

FUNCTION_PROBABILITIES, FUNCTION_FINE, FUNCTION_LOG_CODES = "p_wide", "p_fine", "p_codes"
"""Names inside the body: the softmax, its values on the uniform 16-bit grid, and the logarithmic codes of those."""

FUNCTION_VALUES, FUNCTION_VALUE_CODES = "v_wide", "v_codes"
"""Names inside the body: the values in float32, and their codes."""

ATTRIBUTES = (
    "steps", "bits", "largest", "unit", "by_row", "v_scale", "v_low", "v_high", "v_bits", "bounds", "powers",
)  # fmt: skip

PARTNER = "TensorRT fuses both products of an attention or none, and the second of this one runs in a plugin"
"""Why the first product of an attention stays in float when the second is an operator of ours."""


def attention_function() -> onnx.FunctionProto:
    """Returns the function `qvit::SoftmaxLog2AV`."""
    body = Body()
    op, number = body.op, body.number
    largest, unit, scale, low, high = body.floats("largest", "unit", "v_scale", "v_low", "v_high")
    bounds, powers = (body.attribute(name, "value_floats", "FLOATS") for name in ("bounds", "powers"))
    steps, by_row = (body.wide(body.attribute(name, "value_int", "INT")) for name in ("steps", "by_row"))
    p = op("Softmax", body.wide("scores"), axis=-1, output=FUNCTION_PROBABILITIES)
    peak = op("ReduceMax", p, body.ints(-1), keepdims=1)
    divisor = op("Where", op("Greater", by_row, number(0)), peak, number(1))
    fine = op("Round", op("Div", op("Div", p, divisor), unit))
    u = op("Clip", fine, number(0), number(FINE_TOP), output=FUNCTION_FINE)
    octaves = op("Log", op("Div", op("Max", u, number(1)), number(FINE_TOP)))
    guess = op("Round", op("Mul", octaves, op("Mul", steps, number(-1 / math.log(2)))))
    last = op("Sub", body.wide(op("Shape", bounds)), number(2))  # before the code of 0
    guess = op("Max", op("Min", guess, last), number(0))
    index = op("Cast", guess, to=onnx.TensorProto.INT32)
    one = op("Constant", value=onnx.numpy_helper.from_array(np.array(1, np.int32)))
    larger = body.wide(op("GreaterOrEqual", u, op("Gather", bounds, index)))
    smaller = body.wide(op("Less", u, op("Gather", bounds, op("Add", index, one))))
    codes = op("Add", op("Sub", guess, larger), smaller, output=FUNCTION_LOG_CODES)
    shares = op("Gather", powers, op("Cast", codes, to=onnx.TensorProto.INT32))
    values = body.quantized(body.wide("values", FUNCTION_VALUES), scale, low, high, FUNCTION_VALUE_CODES)
    product = op("Mul", op("MatMul", shares, values), largest)
    op("CastLike", op("Mul", product, divisor), "scores", output="out")
    return body.function(OPERATOR, ["scores", "values"], "out", ATTRIBUTES)


def bounds_of(grid: LogCodes) -> np.ndarray:
    """Returns the smallest u of every code but the last, which stands for 0: float32 [2^bits].

    The first entry is a bound that no u reaches; that of code c follows at c + 1.
    """
    table = log_table(grid.format.bits, grid.steps).numpy()
    smallest = [(table > code).sum() for code in range(2**grid.format.bits - 1)]
    return np.array([FINE_TOP + 1, *smallest], np.float32)


def powers_of(grid: LogCodes) -> np.ndarray:
    """Returns the value of every code of a grid whose `largest` is 1: float32 [2^bits]."""
    return log_powers(grid.format.bits, grid.steps).numpy()


def attention_attributes(site: ProductPlan) -> dict[str, int | float | list[float]]:
    """Returns the attributes of the site's operator without those of its plugin; numbers are rounded to float32.

    Raises:
        ValueError: the site is not `packable`.
    """
    grids = _packable_grids(site)
    if grids is None:
        raise ValueError(f"site {site.site.name!r} cannot be packed")
    grid, values = grids
    scale = np.float32(values.scale)
    low, high = values.format.range
    return {
        "steps": grid.steps,
        "bits": grid.format.bits,
        "largest": float(np.float32(grid.largest)),
        "unit": float(np.float32(grid.scale)),
        "by_row": int(site.grid.residue.by_row),
        "v_scale": float(scale),
        "v_low": float(np.float32(low) * scale),
        "v_high": float(np.float32(high) * scale),
        "v_bits": values.format.bits,
        "bounds": bounds_of(grid).tolist(),
        "powers": powers_of(grid).tolist(),
    }


def packable(site: SitePlan) -> bool:
    """Returns whether the kernel can run this site: logarithmic codes times unshifted values of 4, 6 or 8 bits."""
    return isinstance(site, ProductPlan) and _packable_grids(site) is not None


def _packable_grids(site: ProductPlan) -> tuple[LogCodes, OneScale] | None:
    """Returns the common grids of probabilities and values if the kernel can run them, else None."""
    grid, values = site.grid.logarithm, site.second_grid.common.per_tensor
    if site.site.kind != "matmul_av" or grid is None or values is None:
        return None
    supported = values.format.integer and values.format.bits in PACKED_BITS and not values.shift
    return (grid, values) if supported else None


def pack_attention(half: HalfGraph, plan: Plan) -> HalfGraph:
    """Returns `half` with operators for those of its sites in float that are `packable` products with the values.

    Args:
        plan: that of all sites, those in float too.
    """
    graph, in_float = half.graph.clone(), dict(half.in_float)
    by_output = nodes_by_output(graph)
    packed, products = [], plan.products()
    for name in half.in_float:
        site, product = products.get(name), by_output.get(plan.sites[name].site.product)
        if site is None or product is None or not packable(site):
            continue
        softmax = _softmax(product)
        if softmax is None:
            continue
        _replace(graph, softmax, product, site)
        packed.append(name)
        first = before_widening(softmax.inputs[0]).name
        partners = [n for n, s in plan.sites.items() if s.site.product == first and n in in_float]
        in_float |= dict.fromkeys(partners, PARTNER)
        del in_float[name]
    if not packed:
        return half
    remove_unused(graph.model)
    declare(graph.model, [attention_function()])
    sites = {n: s for n, s in plan.sites.items() if n in half.plan.sites or n in packed}
    return replace(half, graph=graph, plan=Plan(sites), in_float=in_float, packed=(*half.packed, *packed))


def _softmax(product: ir.Node) -> ir.Node | None:
    """Returns the softmax over the keys that the product reads first; None unless the operands' leading sizes agree."""
    value, second = product.inputs[0], product.inputs[1]
    node = None if value is None else value.producer()
    if node is not None and node.op_type == "Cast":
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.op_type != "Softmax" or second is None or second.shape is None:
        return None
    scores = None if node.inputs[0] is None else node.inputs[0].shape
    if scores is None or len(scores) < 2 or node.attributes.get_int("axis", -1) not in (-1, len(scores) - 1):
        return None
    return node if list(scores)[:-2] == list(second.shape)[:-2] else None


def _replace(graph: Graph, softmax: ir.Node, product: ir.Node, site: ProductPlan) -> None:
    """Replaces the softmax and its product by the operator.

    Where every head has a scale of its own, factors before and behind the operator give its values a common one.
    """
    onnx_graph, scores, values = graph.model.graph, softmax.inputs[0], product.inputs[1]
    assert scores is not None and values is not None
    operands = [before_widening(scores), before_widening(values)]
    if any(v.dtype != HALF for v in (*operands, product.outputs[0])):
        operands = [widened(onnx_graph, v) for v in operands]
    if site.second_grid.residue.factors:
        editor, base = Editor(graph, for_onnxruntime=False), codes_name(site.second, site.second_grid.format)
        factors = np.array(site.second_grid.residue.factors, np.float32).reshape(-1, 1, 1)
        forward = editor.constant(f"{base}.factors", _as(operands[1].dtype, factors))
        operands[1] = editor.add(product, "Mul", [operands[1], forward], f"{base}.heads", operands[1].dtype or FULL)
        operands[1].shape = values.shape
        back = editor.constant(f"{site.site.output}.heads", _as(product.outputs[0].dtype, 1 / factors))
        editor.behind(product, [("Mul", back)])
    call(onnx_graph, product, site.site.name, OPERATOR, operands, attention_attributes(site))


def _as(dtype: ir.DataType | None, array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16 if dtype == HALF else np.float32)
