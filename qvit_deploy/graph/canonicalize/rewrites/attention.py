"""The scale of an attention is one Mul of q by a scalar, in front of MatMul(q, k^T).

Exporters put it on q, on the scores, or sqrt(scale) on both q and k. Rules, in order:
1. scalar factors on either operand of a product of two activations, also behind its Transposes and Reshapes,
   and a scalar Mul or Div directly on its result are collected (only where nothing else reads the
   unscaled or scaled value) and taken out;
2. their product multiplies the left operand (q), directly in front of the MatMul;
3. the axis of Softmax is written -1 when it is the last one.
The product of probabilities and v is left alone. A per-head scale (Swin v2) is not a scalar and stays where it is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.edit import add_constant, emit, remove_unused, replace
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import dims, producer, rank, scaled, sole_reader


def normalise_attention(model: ir.Model) -> None:
    """Applies the rules in place; shapes must be known. A product without a scalar factor stays as it is."""
    for node in list(model.graph):
        if node.op_type == "MatMul":
            _one_scale(model.graph, node)
        elif node.op_type == "Softmax":
            assert node.inputs[0] is not None
            if node.attributes.get_int("axis", -1) in (-1, rank(node.inputs[0]) - 1):
                node.attributes["axis"] = ir.AttrInt64("axis", -1)
    remove_unused(model)


def _one_scale(graph: ir.Graph, node: ir.Node) -> None:
    q, k = node.inputs[0], node.inputs[1]
    if q is None or k is None or constant(q) is not None or constant(k) is not None:
        return
    if _is_softmax(q):
        return
    scales = [s for s in (_scale_above(q), _scale_above(k), _scale_below(node)) if s is not None]
    direct = scaled(q)
    if not scales or (len(scales) == 1 and direct is not None and scales[0][0] is q.producer() and _is_mul(q)):
        return
    total = 1.0
    for scale_node, factor in scales:
        total *= factor
        source = _unscaled(scale_node)
        replace(scale_node.outputs[0], source)
        graph.remove(scale_node, safe=True)
    if total == 1.0:
        return
    q = node.inputs[0]
    assert q is not None
    scale = add_constant(graph, f"{node.name}/scale", np.asarray(total, dtype=np.float32))
    node.replace_input_with(0, emit(node, "Mul", [q, scale], dims(q)))


def _is_softmax(value: ir.Value) -> bool:
    """Tells whether `value` is attention probabilities: they are quantized as they leave the Softmax, unscaled."""
    node = value.producer()
    while node is not None and node.op_type in ("Transpose", "Reshape") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "Softmax"


def _is_mul(value: ir.Value) -> bool:
    node = producer(value, "Mul")
    return node is not None and node.inputs[1] is not None and constant(node.inputs[1]) is not None


def _scale_above(value: ir.Value) -> tuple[ir.Node, float] | None:
    """Returns the scalar product on the way to `value`, looking through layout changes nothing else reads."""
    while sole_reader(value) is not None:
        factor = scaled(value)
        node = value.producer()
        if factor is not None and node is not None:
            return node, factor[1]
        if node is None or node.op_type not in ("Transpose", "Reshape") or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return None


def _scale_below(matmul: ir.Node) -> tuple[ir.Node, float] | None:
    reader = sole_reader(matmul.outputs[0])
    factor = scaled(reader.outputs[0]) if reader is not None and reader.op_type in ("Mul", "Div") else None
    return (reader, factor[1]) if reader is not None and factor is not None else None


def _unscaled(scale_node: ir.Node) -> ir.Value:
    factor = scaled(scale_node.outputs[0])
    assert factor is not None
    return factor[0]
