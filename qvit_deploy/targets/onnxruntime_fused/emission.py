"""Emits the `onnxruntime-fused` file: the Q/DQ graph in the operators that ONNX Runtime's CPU kernels really have.

ONNX Runtime fuses a Q/DQ graph itself, but stops short of what its kernels can do: the bias of an integer product stays
an Add of its own, separate q, k and v quantize their input three times, heads are copied in memory before and after
each attention, and rows are computed that nothing reads. Here, in order:

1. floating-point attention becomes one `Attention` (opset 23), which reads the heads in place (`attention`);
2. behind the last attention only the tokens that are read are computed (`emit.rows`);
3. a quantized linear and its bias become one `com.microsoft::MatMulIntegerToFloat`. Its input is quantized to uint8
   around 128, the integers of the int8 codes plus 128: the kernels of x86 multiply uint8 by int8;
4. a quantized convolution becomes `ConvInteger`, or keeps float32 where that is faster (`convolution`).

Only ONNX Runtime reads the file; what it computes is proved against the Q/DQ graph (`verification`).
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.emit.integer_linear import IntegerLinear, UnsignedCodes, integer_linear
from qvit_deploy.emit.rows import keep_read_rows
from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.graph.edit import add_constant, free_node_name, remove_unused
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime_fused.attention import fuse_attention
from qvit_deploy.targets.onnxruntime_fused.convolution import fuse_convolutions

OPSET = 23
"""The first with Attention."""
DOMAIN = "com.microsoft"


def emit_fused(emitted: Graph) -> RuntimeModel:
    """Rewrites a copy of `emitted`, the graph of `emit_qdq` for ONNX Runtime."""
    copy = emitted.clone()
    graph = copy.model.graph
    attentions = fuse_attention(graph)
    remove_unused(copy.model)
    rows = keep_read_rows(graph)
    codes = UnsignedCodes(graph)
    linears = [linear for node in list(graph) if node.op_type == "MatMul" and (linear := integer_linear(node))]
    names = tuple(_fuse(graph, linear, codes) for linear in linears)
    convolutions = fuse_convolutions(graph, codes)
    remove_unused(copy.model)
    graph.sort()
    graph.opset_imports[""] = OPSET
    if linears:
        graph.opset_imports[DOMAIN] = 1
    copy.model.ir_version = 11
    return RuntimeModel(copy.to_proto(), codes.names, rows, names, attentions, convolutions=convolutions)


def _fuse(graph: ir.Graph, linear: IntegerLinear, codes: UnsignedCodes) -> str:
    """Replaces the product and the bias behind it by one operator and returns its name."""
    name = linear.product.name
    bias = None if linear.bias is None else add_constant(graph, f"{name}.bias", linear.bias)
    quantized = codes.of(linear.quantize)
    node = ir.node(
        "MatMulIntegerToFloat",
        [quantized, linear.weight, linear.scale, linear.weight_scale, codes.zero, None, bias],
        domain=DOMAIN,
        name=free_node_name(graph, f"{name}.fused"),
    )
    old, new = linear.last.outputs[0], node.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(linear.last, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.qdq"
    return str(node.name)
