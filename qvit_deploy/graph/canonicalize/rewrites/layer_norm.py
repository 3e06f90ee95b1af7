"""LayerNorm is always LayerNormalization(x, scale, bias), axis -1.

Rules, in order:
1. (x - mean) / sqrt(mean((x - mean)^2) + eps), the square as Pow or as a product, the quotient as Div or as a
   product with a Reciprocal, becomes LayerNormalization;
2. a Mul by a constant vector and an Add of one that follow directly become scale and bias;
3. a LayerNormalization without scale or bias gets ones and zeros, a scale or bias of one number a vector; its axis is
   written -1.
RMSNorm has no operator in opset 21 and stays as it comes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.canonicalize.match import close, last_axis
from qvit_deploy.graph.edit import add_constant, emit, remove_unused, replace
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import dims, ints, operands, producer, rank, scalar, sole_reader


def normalise_layer_norms(model: ir.Model) -> None:
    """Applies the rules in place; shapes must be known. A norm over several axes keeps them."""
    graph = model.graph
    for node in list(graph):
        match = decomposed(node)
        if match is not None:
            x, epsilon = match
            width = dims(x)[-1]
            if isinstance(width, int):
                _fuse(graph, node, x, epsilon, width)
    remove_unused(model)
    for node in list(graph):
        if node.op_type == "LayerNormalization":
            _complete(graph, node)


def decomposed(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Returns (x, epsilon) when `node` is the quotient of a decomposed LayerNorm; at any opset, shapes known or not."""
    if node.op_type == "Div" and node.inputs[0] is not None:
        pairs = [(node.inputs[0], producer(node.inputs[1], "Sqrt"))]
    elif node.op_type == "Mul":
        pairs = [(centred, _reciprocal_sqrt(inverse)) for centred, inverse in operands(node)]
    else:
        return None
    for centred, root in pairs:
        x = _centred_input(centred)
        added = producer(root.inputs[0], "Add") if root is not None else None
        if x is None or added is None:
            continue
        for variance, epsilon_value in operands(added):
            epsilon = scalar(epsilon_value)
            if epsilon is not None and _is_variance(variance, x):
                return x, epsilon
    return None


def _reciprocal_sqrt(value: ir.Value) -> ir.Node | None:
    """Returns the Sqrt behind Reciprocal(Sqrt(.)) or 1 / Sqrt(.)."""
    node = producer(value, "Reciprocal", "Div")
    if node is None or (node.op_type == "Div" and scalar(node.inputs[0]) != 1.0):
        return None
    return producer(node.inputs[-1], "Sqrt")


def _centred_input(value: ir.Value) -> ir.Value | None:
    """Returns x when `value` is x - mean(x)."""
    node = producer(value, "Sub")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return None
    return node.inputs[0] if _is_mean(node.inputs[1], node.inputs[0]) else None


def _is_mean(value: ir.Value, of: ir.Value) -> bool:
    node = producer(value, "ReduceMean")
    if node is None or node.inputs[0] is not of or node.attributes.get_int("keepdims", 1) != 1:
        return False
    # An attribute up to opset 17.
    axes = ints(node.inputs[1]) if len(node.inputs) > 1 else list(node.attributes.get_ints("axes", []))
    return axes == [-1] or (of.shape is not None and last_axis(axes, rank(of)))


def _is_variance(value: ir.Value, x: ir.Value) -> bool:
    mean = producer(value, "ReduceMean")
    square = producer(mean.inputs[0], "Pow", "Mul") if mean is not None else None
    if square is None or square.inputs[0] is None or not _is_mean(value, square.outputs[0]):
        return False
    if square.op_type == "Pow" and not close(scalar(square.inputs[1]) or 0.0, 2.0):
        return False
    factors = square.inputs if square.op_type == "Mul" else square.inputs[:1]
    return all(factor is not None and _centred_input(factor) is x for factor in factors)


def _fuse(graph: ir.Graph, node: ir.Node, x: ir.Value, epsilon: float, width: int) -> None:
    last, scale, bias = node, None, None
    reader = sole_reader(last.outputs[0])
    if reader is not None and reader.op_type == "Mul":
        scale = _vector_beside(reader, last.outputs[0], width)
        last = reader if scale is not None else last
        reader = sole_reader(last.outputs[0])
    if reader is not None and reader.op_type == "Add":
        bias = _vector_beside(reader, last.outputs[0], width)
        last = reader if bias is not None else last
    out = last.outputs[0]
    inputs = [x, scale or _filled(graph, node, "weight", 1.0, width)]
    inputs.append(bias or _filled(graph, node, "bias", 0.0, width))
    attributes: dict[str, int | float] = {"axis": -1, "epsilon": epsilon}
    replace(out, emit(last, "LayerNormalization", inputs, dims(out), dict(attributes), origin=node))


def _vector_beside(node: ir.Node, value: ir.Value, width: int) -> ir.Value | None:
    for y, vector in operands(node):
        array = constant(vector)
        if y is value and array is not None and array.shape == (width,):
            return vector
    return None


def _complete(graph: ir.Graph, node: ir.Node) -> None:
    """Applies rule 3."""
    x = node.inputs[0]
    assert x is not None
    axis = node.attributes.get_int("axis", -1)
    width = dims(x)[-1]
    if axis % rank(x) != rank(x) - 1 or not isinstance(width, int):
        return  # normalises over several axes; not a token-wise LayerNorm
    node.attributes["axis"] = ir.AttrInt64("axis", -1)
    node.attributes.pop("stash_type", None)
    node.resize_inputs(3)
    for index, kind, fill in ((1, "weight", 1.0), (2, "bias", 0.0)):
        value = node.inputs[index]
        number = fill if value is None else scalar(value)
        if number is not None and (value is None or dims(value) != [width]):
            node.replace_input_with(index, _filled(graph, node, kind, number, width))


def _filled(graph: ir.Graph, node: ir.Node, kind: str, fill: float, width: int) -> ir.Value:
    return add_constant(graph, f"{node.name}/{kind}", np.full(width, fill, dtype=np.float32))
