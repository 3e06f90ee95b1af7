"""Packs LayerNorms for the target `tensorrt-plugin`: one whose readers are packed linears writes their codes, as one
`qvit` operator.

    codes = LayerNormQuantize8 <epsilon, y_scale, y_shift, y_low, y_high, y_bits, c, plugin_namespace, plugin_version>
                               (x, gamma, beta)

x [.., c] is float16 or float32, gamma and beta are float32 [c]; the norm of the last axis is taken in float32, plus
y_shift clipped to [y_low, y_high] and quantized. Codes are int8 [.., c], one a byte, for grids of 6 and 8 bits; of
`LayerNormQuantize4` int8 [.., c / 2]: of 32 codes, byte i holds code i in its low half and code 16 + i in its high one
(QVIT_CODES4 in kernels/include/qvit/qvit.h).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.emit import names
from qvit_deploy.emit.local_functions import DOMAIN, LAYER_NORM, writes_codes
from qvit_deploy.formats.grids.grid import OneScale
from qvit_deploy.graph.edit import add_constant, free_value_name, remove_unused
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import WeightPlan
from qvit_deploy.targets.tensorrt.half.keep_fp32 import FULL
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.calls import before_widening, declare
from qvit_deploy.targets.tensorrt.packed.function_body import PLUGIN, Body
from qvit_deploy.targets.tensorrt.packed.linear import ATTRIBUTES, container, linear_function, operator
from qvit_deploy.targets.tensorrt.packed.packing import CHUNK

FUNCTION_NORM_INPUT, FUNCTION_NORM_CODES = "norm_wide", "norm_codes"
"""Names inside the body: its input in float32, and its codes, one a byte."""

NORM_ATTRIBUTES = ("epsilon", "y_scale", "y_shift", "y_low", "y_high", "y_bits", "c")


def norm_operator(codes: int) -> str:
    """Returns the name of the operator that writes codes in containers of 8 or 4 bits."""
    return f"{LAYER_NORM}{codes}"


def norm_function(codes: int) -> onnx.FunctionProto:
    """Returns the function `qvit::LayerNormQuantize8` or, for `codes` 4, `qvit::LayerNormQuantize4`."""
    body = Body()
    op = body.op
    scale, shift, low, high = body.floats("y_scale", "y_shift", "y_low", "y_high")
    normal = op("LayerNormalization", body.wide("x", FUNCTION_NORM_INPUT), "gamma", "beta", axis=-1)
    body.nodes[-1].attribute.append(onnx.AttributeProto(name="epsilon", type="FLOAT", ref_attr_name="epsilon"))
    result = body.codes(op("Add", normal, shift), scale, low, high, FUNCTION_NORM_CODES)
    if codes == 4:
        result = _paired(body, result)
    return body.function(norm_operator(codes), ["x", "gamma", "beta"], result, NORM_ATTRIBUTES)


def _paired(body: Body, codes: str) -> str:
    """Adds the nodes that put two codes of 4 bits into a byte, which is exact in float32; returns their result."""
    op, number = body.op, body.number
    single = op("DequantizeLinear", codes, number(1))
    pairs = op("Reshape", single, body.ints(-1, 2, CHUNK))
    low, high = (op("Slice", pairs, body.ints(i), body.ints(i + 1), body.ints(1)) for i in range(2))
    unsigned = op("Add", low, op("Mul", body.wide(op("Less", low, number(0))), number(16)))
    both = op("Add", op("Mul", high, number(16)), unsigned)
    zero = op("Constant", value=onnx.numpy_helper.from_array(np.array(0, np.int8)))
    rows = op("Slice", op("Shape", codes), body.ints(0), body.ints(-1))
    flat = op("Reshape", both, op("Concat", rows, body.ints(-1), axis=0))
    return op("QuantizeLinear", flat, number(1), zero, output="halves")


def pack_norms(half: HalfGraph, emitted: Graph) -> HalfGraph:
    """Returns `half` with an operator for every LayerNorm that only packed linears on one grid read.

    Args:
        half: with the linears packed (`pack_linears`).
        emitted: the float32 graph that `half` was converted from, for gamma and beta before they became float16.
    """
    graph = half.graph.clone()
    exact = {node.outputs[0].name: node for node in emitted.nodes() if node.op_type == "LayerNormalization"}
    functions: dict[str, onnx.FunctionProto] = {}
    weights = half.plan.weights()
    for norm in [node for node in graph.nodes() if node.op_type == "LayerNormalization"]:
        source = exact.get((norm.outputs[0].name or "").removesuffix(".float32"))
        readers = _packed_readers(norm.outputs[0])
        sites = [weights.get(names.site_of_call(r.name or "")) for r in readers]
        grid = _shared_grid(sites)
        if source is None or grid is None or not _packable(source, sites[0], grid):
            continue
        _replace(graph, norm, source, readers, grid, functions)
    if not functions:
        return half
    remove_unused(graph.model)
    declare(graph.model, functions.values())
    called = {node.op_type for node in graph.nodes() if node.domain == DOMAIN}
    for identifier in [i for i in graph.model.functions if i[0] == DOMAIN and i[1] not in called]:
        del graph.model.functions[identifier]
    return replace(half, graph=graph)


def producing_norm(linear: ir.Node) -> ir.Node | None:
    """Returns the operator that writes the codes which a packed linear reads; None if the linear quantizes itself."""
    value = linear.inputs[0]
    node = None if value is None else value.producer()
    return node if node is not None and writes_codes(node) else None


def _packed_readers(value: ir.Value) -> list[ir.Node]:
    """Returns the packed linears whose activation is `value`, also through Casts; [] if anything else reads it."""
    if value.is_graph_output():
        return []
    readers = []
    for node, index in value.uses():
        if node.op_type == "Cast":
            linears = _packed_readers(node.outputs[0])
        else:
            linears = [node] if node.domain == DOMAIN and node.op_type.startswith("QLinearW") and index == 0 else []
        if not linears:
            return []
        readers += linears
    return readers


def _shared_grid(sites: list[WeightPlan | None]) -> OneScale | None:
    """Returns the grid of the sites' inputs if it is the same for all, else None."""
    grids = [None if site is None else site.grid.per_tensor for site in sites]
    different = {None if g is None else (g.format, np.float32(g.scale), np.float32(g.shift)) for g in grids}
    return grids[0] if len(different) == 1 else None


def _packable(norm: ir.Node, site: WeightPlan | None, grid: OneScale) -> bool:
    """Returns whether the kernel can run this norm: constants over the last axis, rows of full chunks."""
    gamma = constant(norm.inputs[1])
    shape = norm.outputs[0].shape
    if gamma is None or gamma.ndim != 1 or shape is None or site is None:
        return False
    last = norm.attributes.get_int("axis", -1) in (-1, len(shape) - 1)
    return last and gamma.size == site.codes.shape[0] and gamma.size % (CHUNK * 8 // container(grid.format.bits)) == 0


def _replace(
    graph: Graph,
    norm: ir.Node,
    exact: ir.Node,
    readers: list[ir.Node],
    grid: OneScale,
    functions: dict[str, onnx.FunctionProto],
) -> None:
    """Replaces the norm by the operator, and its readers by operators that read codes.

    Args:
        exact: the norm in float32.
        functions: receives the bodies of the operators, by name.
    """
    onnx_graph, bits = graph.model.graph, container(grid.format.bits)
    gamma = constant(exact.inputs[1])
    assert gamma is not None
    beta = constant(exact.inputs[2]) if len(exact.inputs) > 2 else np.zeros_like(gamma)
    assert beta is not None
    name = exact.outputs[0].name or ""
    scale, (low, high) = np.float32(grid.scale), grid.format.range
    inputs = [
        before_widening(norm.inputs[0]),
        add_constant(onnx_graph, f"{name}.gamma", gamma.astype(np.float32)),
        add_constant(onnx_graph, f"{name}.beta", beta.astype(np.float32)),
    ]
    attributes = {
        "epsilon": float(exact.attributes.get_float("epsilon", 1e-5)),
        "y_scale": float(scale),
        "y_shift": float(np.float32(grid.shift)),
        "y_low": float(np.float32(low) * scale),
        "y_high": float(np.float32(high) * scale),
        "y_bits": grid.format.bits,
        "c": int(gamma.size),
    }
    node = ir.node(norm_operator(bits), inputs, {**attributes, **PLUGIN}, domain=DOMAIN, name=names.call(name))
    codes = node.outputs[0]
    codes.name, codes.type = free_value_name(onnx_graph, f"{name}.codes"), ir.TensorType(ir.DataType.INT8)
    shape = norm.outputs[0].shape
    codes.shape = None if shape is None else ir.Shape([*list(shape)[:-1], gamma.size * bits // 8])
    onnx_graph.insert_before(norm, node)
    functions[node.op_type] = norm_function(bits)
    for reader in readers:
        width, gelu = int(reader.op_type.removeprefix("QLinearW")[0]), reader.op_type.endswith("Gelu")
        reader.op_type = operator(width, gelu, bits)
        reader.replace_input_with(0, codes)
        for attribute in set(ATTRIBUTES) & {"x_shift", "x_low", "x_high"}:
            del reader.attributes[attribute]
        reader.attributes["to"] = ir.AttrInt64("to", int(reader.outputs[0].dtype or FULL))
        functions[reader.op_type] = linear_function(width, gelu, bits)
