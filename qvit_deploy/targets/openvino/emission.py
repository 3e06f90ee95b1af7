"""Emits the `openvino` file: the Q/DQ graph as OpenVINO's CPU plugin runs it fastest, in standard operators.

OpenVINO itself fuses Q/DQ pairs, biases, GELU and what stands between GELU and the next quantizer into its integer
products. The rest is done here, in order:

1. behind the last attention only the tokens that are read are computed (`emit.rows`);
2. inputs of linears are quantized to uint8 around 128, the integers of the int8 codes plus 128, and dequantized as if
   their zero point were 0; the bias subtracts the difference, 128 times the scales and the sum of a column's codes.
   Without AMX the kernels of x86 multiply uint8 by int8 only, and would make that correction in every run;
3. where OpenVINO cannot load that, the codes that a table is looked up by become uint16, clipped to those of int8.
   OpenVINO 2026.4 takes some int8 codes that a Gather reads for an operand of an integer product; where it loads them,
   int8 is 2 % faster;
4. of a concatenation that convolutions read, every part is quantized (`concatenated`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.editor import Editor
from qvit_deploy.emit.integer_linear import IntegerLinear, UnsignedCodes, integer_linear
from qvit_deploy.emit.rows import keep_read_rows
from qvit_deploy.emit.runtime_model import CODE_SHIFT, RuntimeModel
from qvit_deploy.graph.edit import remove_unused
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.query import sole_reader
from qvit_deploy.targets.openvino.concatenated import quantize_parts
from qvit_deploy.targets.openvino.isolated import loads

INT8_TOP = np.float32(np.iinfo(np.int8).max)


def emit_openvino(emitted: Graph) -> RuntimeModel:
    """Rewrites a copy of `emitted`, the graph of `emit_qdq`. Needs OpenVINO where a table is looked up by codes."""
    copy = emitted.clone()
    graph = copy.model.graph
    rows = keep_read_rows(graph)
    codes, editor = UnsignedCodes(graph), Editor(copy, for_onnxruntime=False)
    linears = [linear for node in list(graph) if node.op_type == "MatMul" and (linear := integer_linear(node))]
    biases = dict(_shift(editor, linear, codes) for linear in linears)
    passed = quantize_parts(graph)
    remove_unused(copy.model)
    graph.sort()
    left_out = tuple(node for node in passed if node.name not in {left.name for left in graph})
    products = tuple(str(each.product.name) for each in linears)
    indices = _int8_indices(graph)
    if indices and not loads(copy.serialize()):
        _widen(editor, indices)
        graph.sort()
    return RuntimeModel(copy.to_proto(), codes.names, rows, products, biases=biases, left_out=left_out)


def _int8_indices(graph: ir.Graph) -> list[ir.Node]:
    """Returns the quantizers to int8 whose codes a Cast makes indices of."""
    sources = [cast.inputs[0] for cast in graph if cast.op_type == "Cast"]
    quantizers = [v.producer() for v in sources if v is not None and v.dtype == ir.DataType.INT8]
    return [node for node in quantizers if node is not None and node.op_type == "QuantizeLinear"]


def _widen(editor: Editor, quantizers: Iterable[ir.Node]) -> None:
    """Lets quantizers make uint16. The codes are the same: none is negative, and a Clip ends them where int8 does, as
    does the table that they are looked up in."""
    for quantize in quantizers:
        x, scale, zero = quantize.inputs
        step = constant(scale)
        assert x is not None and step is not None and zero is not None and zero.name is not None
        name = str(quantize.outputs[0].name)
        ends = [editor.constant(f"{name}.{end}", code * step) for end, code in (("low", 0), ("high", INT8_TOP))]
        quantize.replace_input_with(0, editor.add(quantize, "Clip", [x, *ends], f"{name}.clipped"))
        zero.const_value = ir.tensor(np.array(0, np.uint16), name=zero.name)
        for value in (zero, quantize.outputs[0]):
            value.type = ir.TensorType(ir.DataType.UINT16)


def _shift(editor: Editor, linear: IntegerLinear, codes: UnsignedCodes) -> tuple[str, float]:
    """Lets the product read uint8 codes, which are shifted by 128, and subtracts the shift's contribution in the bias.

    Returns:
        The name of the resulting tensor, and the largest magnitude of its bias.
    """
    product, last = linear.product, linear.last
    quantized = codes.of(linear.quantize)
    shifted = [reader.outputs[0] for reader, _ in quantized.uses() if reader.op_type == "DequantizeLinear"]
    if not shifted:
        inputs = [quantized, linear.scale, editor.shared("no_shift", np.array(0, np.uint8))]
        shifted = [editor.add(product, "DequantizeLinear", inputs, f"{quantized.name}.shifted")]
        shifted[0].shape = quantized.shape
    product.replace_input_with(0, shifted[0])
    scale, weight, by_column = (constant(v) for v in (linear.scale, linear.weight, linear.weight_scale))
    assert scale is not None and weight is not None and by_column is not None
    shift = CODE_SHIFT * float(scale) * by_column.astype(np.float64) * weight.sum(axis=0, dtype=np.int64)
    reader = sole_reader(last.outputs[0])
    squeezed = reader is not None and reader.op_type == "Squeeze"  # removes the axis that ONNX Runtime needed
    output = str((reader if reader is not None and squeezed else last).outputs[0].name)
    bias = (-shift if linear.bias is None else linear.bias - shift).astype(np.float32)
    if linear.bias is None:
        editor.behind(product, [("Add", editor.constant(f"{product.name}.unshift", bias))])
    else:
        index = next(i for i, v in enumerate(last.inputs) if v is not product.outputs[0])
        original = constant(last.inputs[index])
        assert original is not None
        unshifted = editor.constant(f"{product.name}.bias.unshifted", bias.reshape(original.shape))
        last.replace_input_with(index, unshifted)
    return output, float(np.abs(bias).max())
