"""The `onnxruntime-fused` profile: a Q/DQ graph in the operators that ONNX Runtime's CPU kernels really have.

ONNX Runtime fuses a Q/DQ graph itself, but stops short of what its kernels can do: the bias of an integer product stays
an Add of its own, separate q, k and v quantize their input three times, heads are moved through memory before and after
each attention, and rows are computed that nothing reads. Here, in order:

1. floating-point attention becomes one `Attention` (opset 23), which takes the heads where they lie (`emit.heads`);
2. only the token that is read is computed behind the last mixing of tokens (`emit.rows`);
3. a quantized linear and its bias become one `com.microsoft::MatMulIntegerToFloat`. Its input is quantized to uint8
   around 128, the integers of the int8 codes plus 128: the kernels of x86 multiply uint8 by int8.

Only ONNX Runtime reads the file; what it computes is proved against the Q/DQ graph (`targets.fused_verification`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.emit.heads import fuse_attention
from qvit_deploy.emit.rows import keep_read_rows
from qvit_deploy.graph.canonicalize.edit import add_constant, remove_unused
from qvit_deploy.graph.canonicalize.match import producer, scalar, sole_consumer
from qvit_deploy.graph.graph import Graph, constant

OPSET = 23
"""The first with Attention."""
DOMAIN = "com.microsoft"
CODE_SHIFT = 128
"""What is added to an int8 code to make it the uint8 one."""


@dataclass(frozen=True, eq=False)
class FusedModel:
    """What was written.

    Attributes:
        proto: the model.
        codes: name of int8 codes in the Q/DQ graph -> tensor of `proto` that holds them, plus `CODE_SHIFT`.
        rows: tensor -> the one row (of axis 1) of the Q/DQ graph's that it is.
        products: how many linears became one operator.
        attentions: how many attentions did.
    """

    proto: onnx.ModelProto
    codes: Mapping[str, str]
    rows: Mapping[str, int]
    products: int
    attentions: int

    @property
    def model(self) -> ir.Model:
        return ir.from_proto(self.proto)

    def serialize(self) -> bytes:
        return self.proto.SerializeToString(deterministic=True)


def emit_fused(emitted: Graph) -> FusedModel:
    """Rewrites a copy of `emitted` (of `emit_qdq` for ONNX Runtime)."""
    copy = emitted.clone()
    graph = copy.model.graph
    attentions = fuse_attention(graph)
    remove_unused(copy.model)
    rows = keep_read_rows(graph)
    codes: dict[str, str] = {}
    products = sum(_product(graph, node, codes) for node in list(graph) if node.op_type == "MatMul")
    remove_unused(copy.model)
    graph.sort()
    copy.model.graph.opset_imports[""] = OPSET
    if products:
        copy.model.graph.opset_imports[DOMAIN] = 1
    copy.model.ir_version = 11
    return FusedModel(copy.to_proto(), codes, rows, products, attentions)


def _product(graph: ir.Graph, product: ir.Node, codes: dict[str, str]) -> bool:
    """Replaces a product of quantized values by a constant weight, and the bias behind it."""
    x, weight = (producer(value, "DequantizeLinear") for value in product.inputs)
    quantize = None if x is None else producer(x.inputs[0], "QuantizeLinear")
    if x is None or weight is None or quantize is None or constant(weight.inputs[0]) is None:
        return False
    scale, matrix = x.inputs[1], constant(weight.inputs[0])
    assert matrix is not None and scale is not None
    last, bias = product, None
    add = sole_consumer(product.outputs[0])
    if add is not None and add.op_type == "Add":
        found = next((constant(v) for v in add.inputs if v is not product.outputs[0]), None)
        if found is not None and found.size == matrix.shape[1]:
            last = add
            bias = add_constant(graph, f"{product.name}.bias", found.reshape(-1))
    zero = graph.initializers.get("code_shift")
    zero = zero if zero is not None else add_constant(graph, "code_shift", np.array(CODE_SHIFT, np.uint8))
    quantized = _unsigned(graph, quantize, zero, codes)
    node = ir.node(
        "MatMulIntegerToFloat",
        [quantized, weight.inputs[0], scale, weight.inputs[1], zero, None, bias],
        domain=DOMAIN,
        name=f"{product.name}.fused",
    )
    old, new = last.outputs[0], node.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(last, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.qdq"
    return True


def _unsigned(graph: ir.Graph, quantize: ir.Node, zero: ir.Value, codes: dict[str, str]) -> ir.Value:
    """The uint8 codes of what `quantize` makes int8 codes of; one quantizer for all readers on the same grid."""
    source, signed = quantize.inputs[0], quantize.outputs[0]
    assert source is not None and signed.name is not None
    scale = scalar(quantize.inputs[1])
    for reader, _ in source.uses():
        known = reader.op_type == "QuantizeLinear" and reader.inputs[2] is zero
        if known and scale is not None and scalar(reader.inputs[1]) == scale:
            codes[signed.name] = str(reader.outputs[0].name)
            return reader.outputs[0]
    node = ir.node("QuantizeLinear", [source, quantize.inputs[1], zero], name=f"{quantize.name}.unsigned")
    made = node.outputs[0]
    made.name, made.type, made.shape = f"{signed.name}.unsigned", ir.TensorType(ir.DataType.UINT8), signed.shape
    graph.insert_before(quantize, node)
    codes[signed.name] = made.name
    return made
