"""Quantized convolutions as ONNX Runtime's CPU kernels run them fastest.

ONNX Runtime fuses a Q/DQ convolution only where its output is quantized too: `QLinearConv` writes 8-bit codes, and the
plan has none there. Its other integer kernel writes the int32 sums themselves, which is what a plan means:

* A convolution becomes `ConvInteger` on the int8 codes and on the weight's plus 128 as uint8, with 128 as their zero
  point; `DequantizeLinear` multiplies the sums by the scales of input and output channel, and an Add has the bias. The
  weight is the left factor of the kernel's matrix product, and x86 multiplies uint8 by int8: of the four pairs of types
  this is the fast one. ONNX Runtime has it since 1.24.
* A depthwise convolution, one output channel for each group, stays in float: a matrix product of one row gains nothing
  on integers. It reads its codes as numbers, and a weight that the scales are part of: a weight behind a
  DequantizeLinear cannot be laid out for the fast kernels, and one in float behind a dequantized input ONNX Runtime
  would quantize itself, with one scale for all channels.

`python -m tools.measure.convolutions` prints the times of all of these.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.integer_linear import UnsignedCodes
from qvit_deploy.emit.runtime_model import CODE_SHIFT
from qvit_deploy.graph.edit import add_constant, free_node_name, free_value_name
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import producer, scalar
from qvit_deploy.targets.onnxruntime.runtime import convolves_int8

DEPTHWISE = "depthwise: slower on integers"
NO_KERNEL = "ONNX Runtime before 1.24 has no kernel for int8 inputs"


class _QuantizedConv(NamedTuple):
    """A convolution of quantized values by a constant weight.

    Attributes:
        node: the Conv.
        quantize: the QuantizeLinear that makes the codes of the input.
        scale: of those codes.
        codes: int8 [out, in / groups, ...] of the weight.
        weight_scale: float32 [out].
        weight: name of the constant with the weight's codes.
    """

    node: ir.Node
    quantize: ir.Node
    scale: float
    codes: np.ndarray
    weight_scale: np.ndarray
    weight: str


def why_in_float(conv: ir.Node) -> str | None:
    """Returns why a quantized convolution stays in float; None for one that runs on integers."""
    weight, groups = conv.inputs[1], conv.attributes.get_int("group", 1)
    assert weight is not None and weight.shape is not None
    if int(weight.shape[0]) == groups:  # type: ignore[arg-type]
        return DEPTHWISE
    return None if convolves_int8() else NO_KERNEL


def fuse_convolutions(graph: ir.Graph, unsigned: UnsignedCodes) -> dict[str, str]:
    """Rewrites the quantized convolutions of `graph`, and leaves it unsorted and with nodes that nothing reads.

    Args:
        unsigned: has the zero point of uint8 codes, and is told of codes whose readers now read others that are the
            same.

    Returns:
        The product of every convolution that runs on integers -> the constant with its weight's codes.
    """
    on_integers: dict[str, str] = {}
    for conv in [quantized for node in list(graph) if node.op_type == "Conv" and (quantized := _quantized(node))]:
        reason = why_in_float(conv.node)
        if reason is None:
            output = str(conv.node.outputs[0].name)
            on_integers[output] = _fuse(graph, conv, unsigned)
        elif reason == DEPTHWISE:
            _multiply_codes(graph, conv)
    return on_integers


def _quantized(node: ir.Node) -> _QuantizedConv | None:
    x, weight = (producer(value, "DequantizeLinear") for value in node.inputs[:2])
    quantize = None if x is None else producer(x.inputs[0], "QuantizeLinear")
    if x is None or weight is None or quantize is None:
        return None
    scale, codes, weight_scale = scalar(x.inputs[1]), constant(weight.inputs[0]), constant(weight.inputs[1])
    if scale is None or codes is None or weight_scale is None:
        return None
    assert weight.inputs[0] is not None
    return _QuantizedConv(node, quantize, scale, codes, weight_scale, str(weight.inputs[0].name))


def _fuse(graph: ir.Graph, conv: _QuantizedConv, unsigned: UnsignedCodes) -> str:
    """Replaces the convolution and its bias by integer operators and returns the name of its new weight."""
    old, name = conv.node.outputs[0], conv.node.name
    weight = add_constant(graph, f"{conv.weight}.unsigned", (conv.codes.astype(np.int16) + CODE_SHIFT).astype(np.uint8))
    inputs = [_codes(conv.quantize, unsigned.names), weight, conv.quantize.inputs[2], unsigned.zero]
    product = ir.node("ConvInteger", inputs, conv.node.attributes, name=f"{name}.integer")
    scales = add_constant(graph, f"{conv.weight}.product_scale", np.float32(conv.scale) * conv.weight_scale)
    scaled = ir.node("DequantizeLinear", [product.outputs[0], scales], {"axis": 1}, name=f"{name}.scaled")
    last, bias = scaled, conv.node.inputs[2] if len(conv.node.inputs) > 2 else None
    if bias is not None:
        array = constant(bias)
        assert array is not None
        by_channel = add_constant(graph, f"{bias.name}.by_channel", array.reshape(-1, *[1] * (conv.codes.ndim - 2)))
        last = ir.node("Add", [scaled.outputs[0], by_channel], name=f"{name}.biased")
    for node in dict.fromkeys((product, scaled, last)):
        node.name = free_node_name(graph, str(node.name))
        node.outputs[0].name, node.outputs[0].shape = free_value_name(graph, node.name), old.shape
        node.outputs[0].type = ir.TensorType(ir.DataType.INT32 if node is product else ir.DataType.FLOAT)
        graph.insert_before(conv.node, node)
    new = last.outputs[0]
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.qdq"
    return str(weight.name)


def _codes(quantize: ir.Node, shared: dict[str, str]) -> ir.Value:
    """Returns the codes that `quantize` makes, from the first quantizer of the same tensor that makes them."""
    source, codes, scale = quantize.inputs[0], quantize.outputs[0], scalar(quantize.inputs[1])
    assert source is not None and codes.name is not None
    for reader, _ in source.uses():
        if reader is quantize:
            break
        same = reader.op_type == "QuantizeLinear" and reader.outputs[0].dtype == codes.dtype
        if same and scale is not None and scalar(reader.inputs[1]) == scale:
            shared[codes.name] = str(reader.outputs[0].name)
            return reader.outputs[0]
    return codes


def _multiply_codes(graph: ir.Graph, conv: _QuantizedConv) -> None:
    """Lets a convolution in float read the codes of its input as numbers, and a weight times all scales."""
    codes = conv.quantize.outputs[0]
    name = free_node_name(graph, f"{codes.name}.numbers")
    numbers = ir.node("Cast", [codes], {"to": ir.DataType.FLOAT.value}, name=name)
    value = numbers.outputs[0]
    value.name, value.type, value.shape = free_value_name(graph, name), ir.TensorType(ir.DataType.FLOAT), codes.shape
    graph.insert_before(conv.node, numbers)
    scales = np.float32(conv.scale) * conv.weight_scale.reshape(-1, *[1] * (conv.codes.ndim - 1))
    weight = add_constant(graph, f"{conv.weight}.float", conv.codes.astype(np.float32) * scales)
    conv.node.replace_input_with(0, value)
    conv.node.replace_input_with(1, weight)
