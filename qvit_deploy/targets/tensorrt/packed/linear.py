"""Packs linears of a Q/DQ graph for the target `tensorrt-plugin`, as `qvit` operators whose weights take w_bits / 8
bytes each.

`qvit::QLinearW4`, `W6` and `W8`, and `QLinearW4Gelu` and so on with the GELU behind the layer, are ONNX functions:
packed codes (`packed.packing`) as an int8 initializer, and a body of standard operators that unpacks them and computes
with the integers of the Q/DQ graph. So the file runs in ONNX Runtime, and a runtime that has a plugin of the same name
and namespace (TensorRT from 10.7 on) runs its kernel instead. One name per width, because a function's body cannot
depend on an attribute.

    y = QLinearW4 <x_scale, x_shift, x_low, x_high, x_bits, n, k, plugin_namespace, plugin_version>
                  (x, packed, w_scale, bias)

x [.., k] float16 or float32 plus x_shift is clipped to [x_low, x_high] (the ends of the x_bits grid times x_scale) and
quantized, in float32; `packed` is int8 [panels, blocks, chunks, 8, 16]; w_scale and bias are float32 [n]; y [.., n] has
the type of x. The unpacking halves and subtracts small integers in float32, which is exact, and keeps to operators that
every runtime has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.names import weight_value
from qvit_deploy.formats.grids.grid import OneScale
from qvit_deploy.graph.edit import add_constant, remove_unused
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.query import sole_reader
from qvit_deploy.quantize.plan import Plan, SitePlan, WeightPlan
from qvit_deploy.targets.tensorrt.half.casts import WIDE
from qvit_deploy.targets.tensorrt.half.keep_fp32 import HALF
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.calls import before_widening, call, declare, widened
from qvit_deploy.targets.tensorrt.packed.function_body import Body
from qvit_deploy.targets.tensorrt.packed.packing import CHUNK, PACKED_BITS, pack, packed_shape

FUNCTION_INPUT, FUNCTION_CODES = "x_wide", "x_codes"
"""Names inside the functions' bodies: the activation in float32, and its codes."""

ATTRIBUTES = ("x_scale", "x_shift", "x_low", "x_high", "x_bits", "n", "k")
CODE_ATTRIBUTES = ("x_scale", "x_bits", "n", "k", "to")
"""Attributes of the operators that read codes: `to` is the ONNX type of their result, float (1) or float16 (10)."""

ROW_BYTES = 16
"""Rows of x have to be a multiple of this for the kernels: 8 columns of float16 or 4 of float32."""


class _Unpacking(Body):
    """A body that reads packed weights."""

    def divide(self, value: str, divisor: int) -> tuple[str, str]:
        """Returns (quotient rounded down, remainder) of float integers by a power of two, both exact."""
        quotient = self.op("Floor", self.op("Mul", value, self.number(1 / divisor)))
        return quotient, self.op("Sub", value, self.op("Mul", quotient, self.number(divisor)))

    def signed_halves(self, chunks: str) -> str:
        """Returns 4-bit codes [.., 2, 16] of bytes [.., 16], those of the low halves before those of the high ones."""
        high, unsigned = self.divide(chunks, 16)
        above, _ = self.divide(unsigned, 8)
        low = self.op("Sub", unsigned, self.op("Mul", above, self.number(16)))
        axis = self.ints(-2)
        return self.op("Concat", self.op("Unsqueeze", low, axis), self.op("Unsqueeze", high, axis), axis=-2)

    def nibbles(self, chunks: str) -> str:
        """Returns 4-bit codes [.., 4, 16] of bytes [.., 2, 16]."""
        return self.op("Reshape", self.signed_halves(chunks), self.ints(0, 0, 0, 4, 16))

    def activation(self, codes: int) -> str:
        """Returns int8 codes of x, one a byte, of the operator's input `codes` in containers of 8 or 4 bits."""
        if codes == 8:
            return "codes"
        single = self.op("DequantizeLinear", "codes", self.number(1))
        halves = self.signed_halves(self.op("Reshape", single, self.ints(-1, CHUNK)))
        rows = self.op("Slice", self.op("Shape", "codes"), self.ints(0), self.ints(-1))
        flat = self.op("Reshape", halves, self.op("Concat", rows, self.ints(-1), axis=0))
        return self.op("Cast", flat, to=onnx.TensorProto.INT8)

    def unpack(self, chunks: str, bits: int) -> str:
        """Returns codes [panels, 8, blocks, 4, 16] of the bytes [panels, 8, blocks, chunks, 16], all in float, signed.

        Inverts the layout that kernels/include/qvit/packing.h defines.
        """
        if bits == 8:
            return chunks
        if bits == 4:
            return self.nibbles(chunks)
        first, second = self.op("Split", chunks, self.ints(2, 1), axis=3), "pairs"
        self.nodes[-1].output.append(second)
        upper = self.nibbles(first)
        _, rest = self.divide(second, 256)  # the byte without its sign
        pairs = []
        for divisor in (64, 16, 4):
            pair, rest = self.divide(rest, divisor)
            pairs.append(pair)
        lower = self.op("Concat", rest, *reversed(pairs), axis=3)
        return self.op("Add", self.op("Mul", upper, self.number(4)), lower)


def container(a_bits: int) -> int:
    """Returns how many bits a code of an activation takes in memory: 4 or 8."""
    return 4 if a_bits == 4 else 8


def operator(bits: int, gelu: bool, codes: int | None = None) -> str:
    """Returns the name of the operator: `QLinearW4`, `QLinearW4Gelu`, ...; `QLinearW4Codes8` where x is codes already.

    Args:
        bits: of the weights, 4, 6 or 8.
        codes: bits of the containers of x's codes, 8 or 4; None where the operator quantizes x.
    """
    return f"QLinearW{bits}{'' if codes is None else f'Codes{codes}'}{'Gelu' if gelu else ''}"


def linear_function(bits: int, gelu: bool = False, codes: int | None = None) -> onnx.FunctionProto:
    """Returns the function called `operator(bits, gelu, codes)`; bits 4, 6 or 8."""
    body = _Unpacking()
    op, zero = body.op, body.ints(0)
    # TensorRT takes an int8 constant only as the input of a DequantizeLinear or a plugin.
    chunks = op("Transpose", op("DequantizeLinear", "packed", body.number(1)), perm=[0, 3, 1, 2, 4])
    matrix = op("Flatten", body.unpack(chunks, bits), axis=2)
    for axis, name in enumerate(("n", "k")):
        end = op("Unsqueeze", body.attribute(name, "value_int", "INT"), zero)
        matrix = op("Slice", matrix, zero, end, body.ints(axis))
    weight = op("DequantizeLinear", op("Cast", matrix, to=onnx.TensorProto.INT8), "w_scale", axis=0)
    if codes is None:
        scale, shift, low, high = body.floats("x_scale", "x_shift", "x_low", "x_high")
        shifted = op("Add", body.wide("x", FUNCTION_INPUT), shift)
        x = body.quantized(shifted, scale, low, high, FUNCTION_CODES)
    else:
        x = op("DequantizeLinear", body.activation(codes), *body.floats("x_scale"))
    y = op("Add", op("MatMul", x, op("Transpose", weight, perm=[1, 0])), "bias")
    y = op("Gelu", y) if gelu else y
    if codes is None:
        op("CastLike", y, "x", output="y")
    else:
        op("Cast", y, output="y")
        body.nodes[-1].attribute.append(onnx.AttributeProto(name="to", type="INT", ref_attr_name="to"))
    first, attributes = ("x", ATTRIBUTES) if codes is None else ("codes", CODE_ATTRIBUTES)
    return body.function(operator(bits, gelu, codes), [first, "packed", "w_scale", "bias"], "y", attributes)


def packable(plan: SitePlan) -> bool:
    """Returns whether the kernels can run this site: a linear of 4, 6 or 8 bits on one grid, with rows to align."""
    return _packable(plan) is not None


def _packable(plan: SitePlan) -> tuple[WeightPlan, OneScale] | None:
    """Returns the plan and the grid of its input if the kernels can run it, else None."""
    grid = plan.grid.per_tensor
    if not isinstance(plan, WeightPlan) or plan.site.kind != "linear" or grid is None:
        return None
    aligned = plan.codes.shape[0] * 4 % ROW_BYTES == 0
    supported = all(f.integer and f.bits in PACKED_BITS for f in (plan.format, grid.format))
    return (plan, grid) if aligned and supported else None


def emit_packed(emitted: EmittedGraph, plan: Plan, sites: Iterable[str] | None = None) -> EmittedGraph:
    """Returns a copy of `emitted` with linears, and the GELUs that alone read them, as packed operators.

    Args:
        emitted: a graph of `emit_qdq` or `to_half`.
        sites: names of the sites to pack, by default every `packable` one.

    Raises:
        ValueError: a site that is not in the plan or not `packable`.
    """
    chosen = [name for name, site in plan.sites.items() if packable(site)] if sites is None else list(sites)
    packed = emitted.clone()
    weights = {v.name: v for node in packed.nodes() if node.op_type == "DequantizeLinear" for v in node.outputs}
    functions = set()
    for name in chosen:
        site = _packable(plan.sites[name]) if name in plan.sites else None
        if site is None:
            raise ValueError(f"site {name!r} cannot be packed")
        value = weight_value(name)
        weight = weights.get(value) or weights[f"{value}.{WIDE}"]
        functions.add(_replace(packed, weight, *site))
    remove_unused(packed.model)
    declare(packed.model, (linear_function(bits, gelu) for bits, gelu in sorted(functions)))
    return packed


def pack_linears(half: HalfGraph) -> HalfGraph:
    """Returns `half` with every `packable` site of its plan packed."""
    packed = tuple(name for name, site in half.plan.sites.items() if packable(site))
    return replace(half, graph=emit_packed(half.graph, half.plan, packed), packed=packed)


def _replace(graph: Graph, weight: ir.Value, plan: WeightPlan, grid: OneScale) -> tuple[int, bool]:
    """Replaces the product that reads `weight`, its bias and a GELU that alone reads that by the operator.

    Returns (weight bits, whether there was a GELU).
    """
    (product,) = weight.consumers()
    assert product.op_type == "MatMul"
    onnx_graph, name = graph.model.graph, plan.site.name
    k, n = plan.codes.shape
    last, bias = _with_bias(product, n)
    if plan.bias is not None:
        assert last is not product, f"{name}: no addition of its bias behind the product"
        bias = plan.bias.astype(np.float32)
    gelu = sole_reader(last.outputs[0], "Gelu")
    if gelu is not None and gelu.attributes.get_string("approximate", "none") == "none":
        last = gelu
    layout = packed_shape((n, k), plan.w_bits)
    codes = pack(np.ascontiguousarray(plan.codes.T), plan.w_bits).view(np.int8).reshape(layout)
    scale = np.float32(grid.scale)
    low, high = grid.format.range
    inputs = [
        _operand(onnx_graph, product, grid, k, last.outputs[0].dtype),
        add_constant(onnx_graph, f"{name}.weight.packed{plan.w_bits}", codes),
        add_constant(onnx_graph, f"{name}.weight.scales", plan.weight_scale.astype(np.float32)),
        add_constant(onnx_graph, f"{name}.bias.packed", bias),
    ]
    attributes = {
        "x_scale": float(scale),
        "x_shift": float(np.float32(grid.shift)),
        "x_low": float(np.float32(low) * scale),
        "x_high": float(np.float32(high) * scale),
        "x_bits": plan.a_bits,
        "n": n,
        "k": k,
    }
    call(onnx_graph, last, name, operator(plan.w_bits, last is gelu), inputs, attributes)
    return plan.w_bits, last is gelu


def _with_bias(product: ir.Node, n: int) -> tuple[ir.Node, np.ndarray]:
    """Returns (the Add of a bias [n] behind the product, that bias) or, where there is none, (the product, zeros)."""
    # A product that weight scales keep in float32 is cast to float16 before its bias is added.
    sum_input = sole_reader(product.outputs[0], "Cast") or product
    add = sole_reader(sum_input.outputs[0], "Add")
    bias = None if add is None else next(constant(v) for v in add.inputs if v is not sum_input.outputs[0])
    if add is None or bias is None or bias.size != n:
        return product, np.zeros(n, np.float32)
    return add, bias.reshape(n).astype(np.float32)


def _operand(graph: ir.Graph, product: ir.Node, grid: OneScale, k: int, dtype: ir.DataType | None) -> ir.Value:
    """Returns the tensor whose codes the product reads, as the operator takes it.

    It is float32 where `dtype`, that of the result, is (float16 might overflow), or where float16 rows would not be
    aligned.
    """
    value = product.inputs[0]
    for op_type in ("DequantizeLinear", "QuantizeLinear", "Clip", "Add"):
        value = before_widening(value)
        node = value.producer()
        if op_type == "Clip" and (node is None or node.op_type != "Clip"):
            assert grid.format.fills_container, f"{product.name}: no Clip in front of {grid.format.bits}-bit codes"
            continue
        if op_type == "Add" and not grid.shift:
            break
        assert node is not None and node.op_type == op_type, f"{product.name}: expected {op_type} in front of it"
        value = node.inputs[0]
    value = before_widening(value)
    return value if dtype == HALF and k * 2 % ROW_BYTES == 0 else widened(graph, value)
