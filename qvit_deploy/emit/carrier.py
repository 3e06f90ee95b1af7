"""The packed profile: linears of a Q/DQ graph as `qvit` operators whose weights take as many bytes as their bits.

`qvit::QLinearW4`, `W6` and `W8` are ONNX functions: packed codes (`emit.packed`) as an int8 initializer, and a body of
standard operators that unpacks them and computes with the integers of the Q/DQ graph. So the file runs in ONNX Runtime,
and a runtime that has a plugin of the same name and namespace (TensorRT from 10.7 on) runs its kernel instead. One name
per width, because a function's body cannot depend on an attribute.

    y = QLinearW4 <x_scale, x_low, x_high, x_bits, n, k, plugin_namespace, plugin_version> (x, packed, w_scale, bias)

x [.., k] is clipped to [x_low, x_high] (the ends of the x_bits grid times x_scale) and quantized; `packed` is int8
[panels, blocks, chunks, 8, 16]; w_scale and bias are float32 [n]; y [.., n] has the type of x. The unpacking halves and
subtracts small integers in float32, which is exact, and keeps to operators that every runtime has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.emit.packed import PACKED_BITS, pack, packed_shape
from qvit_deploy.graph.canonicalize.edit import add_constant, remove_unused
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph, constant
from qvit_deploy.quantize.activations import ActivationGrid
from qvit_deploy.quantize.grid import code_range
from qvit_deploy.quantize.plan import Plan, SitePlan

DOMAIN = "qvit"
"""Operator domain and plugin namespace: TensorRT looks a plugin up under either."""

PLUGIN_VERSION = "1"

FUNCTION_CODES = "x_codes"
"""The activation's codes inside the functions' bodies."""

ATTRIBUTES = ("x_scale", "x_low", "x_high", "x_bits", "n", "k", "plugin_namespace", "plugin_version")


class _Body:
    """The nodes of a function body, each called by its operator and number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []

    def op(self, op_type: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def number(self, value: float) -> str:
        return self.op("Constant", value_float=float(value))

    def ints(self, *values: int) -> str:
        return self.op("Constant", value_ints=list(values))

    def attribute(self, name: str, field: str, kind: str) -> str:
        """The function's own attribute as a scalar tensor."""
        output = self.op("Constant")
        self.nodes[-1].attribute.append(onnx.AttributeProto(name=field, type=kind, ref_attr_name=name))
        return output

    def divide(self, value: str, divisor: int) -> tuple[str, str]:
        """(quotient rounded down, remainder) of float integers by a power of two: exact."""
        quotient = self.op("Floor", self.op("Mul", value, self.number(1 / divisor)))
        return quotient, self.op("Sub", value, self.op("Mul", quotient, self.number(divisor)))

    def signed_halves(self, chunks: str, shape: tuple[int, ...]) -> str:
        """Codes [.., 16] of 4 bits, those of the low halves before those of the high ones, in `shape` (of Reshape)."""
        high, unsigned = self.divide(chunks, 16)
        above, _ = self.divide(unsigned, 8)
        low = self.op("Sub", unsigned, self.op("Mul", above, self.number(16)))
        axis = self.ints(4)
        both = self.op("Concat", self.op("Unsqueeze", low, axis), self.op("Unsqueeze", high, axis), axis=4)
        return self.op("Reshape", both, self.ints(*shape))

    def unpack(self, chunks: str, bits: int) -> str:
        """Float codes [panels, 8, blocks, 4, 16] of the bytes [panels, 8, blocks, chunks, 16], float and signed:
        packing.h read backwards."""
        if bits == 8:
            return chunks
        if bits == 4:
            return self.signed_halves(chunks, (0, 0, 0, 4, 16))
        first, second = self.op("Split", chunks, self.ints(2, 1), axis=3), "pairs"
        self.nodes[-1].output.append(second)
        upper = self.signed_halves(first, (0, 0, 0, 4, 16))
        _, rest = self.divide(second, 256)  # the byte without its sign
        pairs = []
        for divisor in (64, 16, 4):
            pair, rest = self.divide(rest, divisor)
            pairs.append(pair)
        lower = self.op("Concat", rest, *reversed(pairs), axis=3)
        return self.op("Add", self.op("Mul", upper, self.number(4)), lower)


def linear_function(bits: int) -> onnx.FunctionProto:
    """`qvit::QLinearW{bits}`; bits 4, 6 or 8."""
    body = _Body()
    op, zero = body.op, body.ints(0)
    # TensorRT lets an int8 constant go into a DequantizeLinear or a plugin and nowhere else.
    chunks = op("Transpose", op("DequantizeLinear", "packed", body.number(1)), perm=[0, 3, 1, 2, 4])
    matrix = op("Flatten", body.unpack(chunks, bits), axis=2)
    for axis, name in enumerate(("n", "k")):
        end = op("Unsqueeze", body.attribute(name, "value_int", "INT"), zero)
        matrix = op("Slice", matrix, zero, end, body.ints(axis))
    weight = op("DequantizeLinear", op("Cast", matrix, to=onnx.TensorProto.INT8), "w_scale", axis=0)
    scale, low, high = (body.attribute(f"x_{name}", "value_float", "FLOAT") for name in ("scale", "low", "high"))
    no_shift = op("Constant", value=onnx.numpy_helper.from_array(np.array(0, np.int8)))
    clipped = op("Clip", op("Cast", "x", to=onnx.TensorProto.FLOAT), low, high)
    codes = op("QuantizeLinear", clipped, scale, no_shift, output=FUNCTION_CODES)
    x = op("DequantizeLinear", codes, scale, no_shift)
    y = op("Add", op("MatMul", x, op("Transpose", weight, perm=[1, 0])), "bias")
    op("CastLike", y, "x", output="y")
    return onnx.helper.make_function(
        DOMAIN,
        f"QLinearW{bits}",
        ["x", "packed", "w_scale", "bias"],
        ["y"],
        body.nodes,
        [onnx.helper.make_opsetid("", CANONICAL_OPSET)],
        list(ATTRIBUTES),
    )


def carriable(plan: SitePlan) -> bool:
    """Whether the kernels can run this site: a linear of 4, 6 or 8 bits on a plain grid."""
    linear = plan.site.kind == "linear" and plan.codes is not None
    plain = isinstance(plan.grid, ActivationGrid) and plan.grid.shift == 0
    return linear and plain and plan.w_bits in PACKED_BITS and plan.a_bits in PACKED_BITS


def emit_packed(
    emitted: Graph, plan: Plan, sites: Iterable[str] | None = None, functions: bool = True
) -> onnx.ModelProto:
    """`emitted` (of `emit_qdq`, which stays as it is) with linears as packed operators.

    Args:
        sites: names of the sites to pack, by default every `carriable` one.
        functions: False leaves the bodies out. TensorRT before 10.7 would run them in place of its plugin.

    Raises:
        ValueError: a site that is not in the plan or not `carriable`.
    """
    chosen = [name for name, site in plan.sites.items() if carriable(site)] if sites is None else list(sites)
    packed = emitted.clone()
    by_output = {node.outputs[0].name: node for node in packed.nodes()}
    widths = set()
    for name in chosen:
        site = plan.sites.get(name)
        if site is None or not carriable(site):
            raise ValueError(f"site {name!r} cannot be packed")
        _replace(packed, by_output[f"{name}.weight.value"], site)
        widths.add(site.w_bits)
    remove_unused(packed.model)
    if widths:
        packed.model.graph.opset_imports[DOMAIN] = 1
    proto = packed.to_proto()
    if functions:
        proto.functions.extend(linear_function(bits) for bits in sorted(widths))
    return proto


def _replace(graph: Graph, dequantize: ir.Node, plan: SitePlan) -> None:
    """Puts the operator in place of the product that reads the weight which `dequantize` makes, and of its bias."""
    (product,) = dequantize.outputs[0].consumers()
    assert product.op_type == "MatMul" and plan.codes is not None and plan.weight_scale is not None
    onnx_graph, name = graph.model.graph, plan.site.name
    k, n = plan.codes.shape
    last, bias = product, np.zeros(n, np.float32)
    readers = product.outputs[0].consumers()
    if len(readers) == 1 and readers[0].op_type == "Add" and not product.outputs[0].is_graph_output():
        added = next((constant(v) for v in readers[0].inputs if v is not product.outputs[0]), None)
        if added is not None and added.size == n:
            last, bias = readers[0], added.reshape(n)
    layout = packed_shape((n, k), plan.w_bits)
    codes = pack(np.ascontiguousarray(plan.codes.T), plan.w_bits).view(np.int8).reshape(layout)
    scale = np.float32(plan.grid.scale)  # type: ignore[attr-defined]
    low, high = code_range(plan.a_bits)
    node = ir.node(
        f"QLinearW{plan.w_bits}",
        [
            _source(product),
            add_constant(onnx_graph, f"{name}.weight.packed{plan.w_bits}", codes),
            add_constant(onnx_graph, f"{name}.weight.scales", plan.weight_scale.astype(np.float32)),
            add_constant(onnx_graph, f"{name}.bias.packed", bias.astype(np.float32)),
        ],
        {
            "x_scale": float(scale),
            "x_low": float(np.float32(low) * scale),
            "x_high": float(np.float32(high) * scale),
            "x_bits": plan.a_bits,
            "n": n,
            "k": k,
            "plugin_namespace": DOMAIN,
            "plugin_version": PLUGIN_VERSION,
        },
        domain=DOMAIN,
        name=f"{name}.QLinear",
    )
    old, new = last.outputs[0], node.outputs[0]
    new.shape, new.type = old.shape, old.type
    onnx_graph.insert_before(last, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.qdq"


def _source(product: ir.Node) -> ir.Value:
    """The tensor in front of the quantizer of the product's first operand, and of its Clip."""
    value = product.inputs[0]
    for op_type in ("DequantizeLinear", "QuantizeLinear", "Clip"):
        node = value.producer() if value is not None else None
        if node is None or node.op_type != op_type:
            assert op_type == "Clip", f"{product.name}: expected {op_type} in front of the product"
            break
        value = node.inputs[0]
    assert value is not None
    return value
