"""Removes nodes that change nothing.

Rules, in order, repeated until none fires:
1. Identity, inference-time Dropout, Cast to the type it already has;
2. Reshape, Expand, Tile, Slice, Pad whose output has the input's shape; Transpose that keeps the order;
3. Concat of one tensor, and empty tensors inside a Concat;
4. x * 1, x / 1, x + 0, x - 0 for scalar constants, x + 0 also for constants of two and more dimensions (an
   empty attention mask; a bias has one dimension and stays even when it is zero);
5. Where with a constant condition that is all true or all false;
6. Expand in front of an elementwise operator that broadcasts anyway.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.graph.edit import remove_unused, replace
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.op_traits import BROADCASTS, SAME_IF_SAME_SHAPE, TRAITS
from qvit_deploy.graph.query import Dim, dims, ints, perm_of, rank, scalar


def remove_noops(model: ir.Model) -> None:
    """Applies the rules in place; shapes must be known up to the batch."""
    changed = True
    while changed:
        changed = False
        for node in list(model.graph):
            source = _passes_through(node)
            if source is not None and not (_is_boundary(source) and node.outputs[0].is_graph_output()):
                replace(node.outputs[0], source)
                model.graph.remove(node, safe=True)
                changed = True
            elif node.op_type == "Expand":
                changed |= _drop_expand(node)
            elif node.op_type == "Concat":
                changed |= _drop_empty_parts(node)
        remove_unused(model)


def _is_boundary(value: ir.Value) -> bool:
    """Tells whether a value cannot take over a graph output: an input, an initializer or an output already."""
    return value.producer() is None or value.is_graph_output()


def _passes_through(node: ir.Node) -> ir.Value | None:
    """Returns the input that `node` passes on unchanged, or None."""
    x = node.inputs[0] if node.inputs else None
    if x is None or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return None
    op, out = node.op_type, node.outputs[0]
    if op == "Identity" or (op == "Dropout" and not scalar(node.inputs[2] if len(node.inputs) > 2 else None)):
        return x
    if op == "Cast":
        return x if x.dtype is not None and x.dtype == node.attributes.get_int("to") else None
    if op == "CastLike":
        return x if x.dtype is not None and node.inputs[1] is not None and x.dtype == node.inputs[1].dtype else None
    if op in SAME_IF_SAME_SHAPE:
        return x if dims(x) == dims(out) else None
    if op == "Slice":
        steps = ints(node.inputs[4]) if len(node.inputs) > 4 else [1]
        return x if dims(x) == dims(out) and steps is not None and min(steps) > 0 else None
    if op == "Pad":
        pads = ints(node.inputs[1])
        return x if pads is not None and not any(pads) else None
    if op == "Transpose":
        return x if perm_of(node) == sorted(perm_of(node)) else None
    if op == "Concat":
        return x if len(node.inputs) == 1 else None
    traits = TRAITS.get(op)
    if traits is not None and traits.neutral is not None:
        pairs = [(x, node.inputs[1]), (node.inputs[1], x)] if traits.commutes else [(x, node.inputs[1])]
        for operand, neutral in pairs:
            if operand is None or neutral is None or dims(operand) != dims(out):
                continue
            if scalar(neutral) == traits.neutral or (op == "Add" and _is_zero_mask(neutral)):
                return operand
    if op == "Where":
        return _constant_choice(node)
    return None


def _is_zero_mask(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.ndim >= 2 and not array.any()


def _constant_choice(node: ir.Node) -> ir.Value | None:
    """Applies rule 5."""
    condition = constant(node.inputs[0])
    if condition is None or condition.size == 0 or condition.any() != condition.all():
        return None
    chosen = node.inputs[1] if condition.all() else node.inputs[2]
    return chosen if chosen is not None and dims(chosen) == dims(node.outputs[0]) else None


def _drop_expand(node: ir.Node) -> bool:
    x, out = node.inputs[0], node.outputs[0]
    if x is None or out.is_graph_output() or rank(x) > rank(out):
        return False
    readers = list(out.uses())
    for use in readers:
        others = [v for i, v in enumerate(use.node.inputs) if v is not None and i != use.idx]
        if use.node.op_type not in BROADCASTS or any(v is out for v in others):
            return False
        if broadcast([dims(v) for v in [x, *others]]) != dims(use.node.outputs[0]):
            return False
    for use in readers:
        use.node.replace_input_with(use.idx, x)
    return bool(readers)


def _drop_empty_parts(node: ir.Node) -> bool:
    keep = [v for v in node.inputs if v is not None and 0 not in dims(v)]
    if not keep or len(keep) == len(node.inputs):
        return False
    node.resize_inputs(len(keep))
    for i, value in enumerate(keep):
        node.replace_input_with(i, value)
    return True


def broadcast(shapes: list[list[Dim]]) -> list[Dim]:
    """Returns the ONNX multidirectional broadcast of shapes that are known to fit."""
    length = max(len(shape) for shape in shapes)
    ones: list[Dim] = [1] * length
    padded = [ones[len(shape) :] + shape for shape in shapes]
    return [next((d for d in column if d != 1), 1) for column in zip(*padded, strict=True)]
