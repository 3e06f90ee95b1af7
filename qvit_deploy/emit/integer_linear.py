"""Quantized linears of a Q/DQ graph, and their codes as uint8: the kernels of x86 multiply uint8 by int8."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.runtime_model import CODE_SHIFT
from qvit_deploy.graph.edit import add_constant, free_node_name, free_value_name
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import producer, scalar, sole_reader


class IntegerLinear(NamedTuple):
    """A product of quantized values by a constant weight, and the bias behind it.

    Attributes:
        product: the MatMul.
        last: the Add of the bias, or the product where there is none.
        quantize: the QuantizeLinear that makes the codes of the input.
        scale: scale of those codes, a scalar.
        weight: int8 codes [in, out].
        weight_scale: scale of every column, or one for all.
        bias: float32 [out], None where there is none.
    """

    product: ir.Node
    last: ir.Node
    quantize: ir.Node
    scale: ir.Value
    weight: ir.Value
    weight_scale: ir.Value
    bias: np.ndarray | None


def integer_linear(product: ir.Node) -> IntegerLinear | None:
    """Returns the quantized linear whose product is `product`, if it is one."""
    x, weight = (producer(value, "DequantizeLinear") for value in product.inputs)
    quantize = None if x is None else producer(x.inputs[0], "QuantizeLinear")
    if x is None or weight is None or quantize is None:
        return None
    scale, codes, weight_scale = x.inputs[1], weight.inputs[0], weight.inputs[1]
    matrix = constant(codes)
    if matrix is None or scale is None or codes is None or weight_scale is None:
        return None
    last, bias = product, None
    add = sole_reader(product.outputs[0])
    if add is not None and add.op_type == "Add":
        addend = next((constant(v) for v in add.inputs if v is not product.outputs[0]), None)
        if addend is not None and addend.size == matrix.shape[1]:
            last, bias = add, addend.reshape(-1)
    return IntegerLinear(product, last, quantize, scale, codes, weight_scale, bias)


class UnsignedCodes:
    """Adds uint8 codes next to the int8 ones of a graph; one quantizer for all readers on the same grid.

    Attributes:
        names: int8 codes -> the codes that their readers read instead.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._zero: ir.Value | None = None
        self.names: dict[str, str] = {}

    @property
    def zero(self) -> ir.Value:
        """The zero point of the codes."""
        if self._zero is None:
            self._zero = add_constant(self._graph, "code_shift", np.array(CODE_SHIFT, np.uint8))
        return self._zero

    def of(self, quantize: ir.Node) -> ir.Value:
        """Returns uint8 codes of the tensor that `quantize` turns into int8 codes."""
        source, signed = quantize.inputs[0], quantize.outputs[0]
        assert source is not None and signed.name is not None
        scale = scalar(quantize.inputs[1])
        for reader, _ in source.uses():
            known = reader.op_type == "QuantizeLinear" and reader.inputs[2] is self.zero
            if known and scale is not None and scalar(reader.inputs[1]) == scale:
                self.names[signed.name] = str(reader.outputs[0].name)
                return reader.outputs[0]
        name = free_node_name(self._graph, f"{quantize.name}.unsigned")
        node = ir.node("QuantizeLinear", [source, quantize.inputs[1], self.zero], name=name)
        codes = node.outputs[0]
        codes.name = free_value_name(self._graph, f"{signed.name}.unsigned")
        codes.type, codes.shape = ir.TensorType(ir.DataType.UINT8), signed.shape
        self._graph.insert_before(quantize, node)
        self.names[signed.name] = codes.name
        return codes
