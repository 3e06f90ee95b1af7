"""Only the token that is read: behind the last attention, operators that treat tokens alike run on that token alone.

A classifier that reads one token (a Gather on the token axis, as models with a class token end) needs of its last block
no other token's output, projection or MLP. The Gather moves up through operators that compute every row of axis 1 from
the same row of their inputs, and through the query of `Attention`.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.graph.canonicalize.edit import add_ints
from qvit_deploy.graph.canonicalize.match import dims, scalar
from qvit_deploy.graph.graph import constant

ELEMENTWISE = ("LayerNormalization", "Gelu", "Relu", "Clip", "QuantizeLinear", "DequantizeLinear")
ONE_OPERAND = (*ELEMENTWISE, "MatMul", "Attention")
"""Rows of the result are made of rows of the first operand."""
TWO_OPERANDS = ("Add", "Sub", "Mul", "Div")
TOKENS = 1
"""The axis, of [batch, tokens, channels]."""


def keep_read_rows(graph: ir.Graph) -> dict[str, int]:
    """Tensor -> the row of it that is still computed; empty when no such Gather ends the graph."""
    kept: dict[str, int] = {}
    for gather in [node for node in graph if node.op_type == "Gather"]:
        source, row = gather.inputs[0], scalar(gather.inputs[1])
        axis = gather.attributes.get_int("axis", 0)
        index = gather.inputs[1]
        if row is None or source is None or index is None or index.shape is None or len(index.shape) != 0:
            continue
        if _rank(source) == 3 and axis in (TOKENS, TOKENS - 3):
            kept |= _narrow(graph, gather, int(row))
    return kept


def _narrow(graph: ir.Graph, gather: ir.Node, row: int) -> dict[str, int]:
    narrow: dict[ir.Node, tuple[int, ...]] = {}
    before = list(graph)
    for node in reversed(before[: before.index(gather)]):
        operands = _row_operands(node)
        output = node.outputs[0]
        uses = [(u.node, u.idx) for u in output.uses()]
        read = all((n is gather and i == 0) or i in narrow.get(n, ()) for n, i in uses)
        if operands and uses and read and not output.is_graph_output() and len(node.outputs) == 1:
            narrow[node] = operands
    taken: dict[ir.Value, ir.Value] = {}
    for node, operands in narrow.items():
        for index in operands:
            value = node.inputs[index]
            assert value is not None
            if value.producer() not in narrow:
                node.replace_input_with(index, _row_of(graph, value, row, node, taken))
    for node in narrow:
        output = node.outputs[0]
        output.shape = None if output.shape is None else ir.Shape([output.shape[0], 1, output.shape[2]])
    if narrow:
        squeeze = ir.node("Squeeze", [gather.inputs[0], add_ints(graph, [TOKENS])], name=f"{gather.name}.Squeeze")
        old, new = gather.outputs[0], squeeze.outputs[0]
        new.shape, new.type = old.shape, old.type
        graph.insert_before(gather, squeeze)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name, old.name = old.name, f"{old.name}.all"
        graph.remove(gather, safe=True)
    return {str(node.outputs[0].name): row for node in narrow}


def _row_operands(node: ir.Node) -> tuple[int, ...]:
    """Operands whose rows become the rows of the result; none when rows mix, or when it cannot be told."""
    output = node.outputs[0]
    if _rank(output) != 3:
        return ()
    if node.op_type in TWO_OPERANDS:
        return _of_two(node)
    if node.op_type not in ONE_OPERAND or _rank(node.inputs[0]) != 3:
        return ()
    if node.op_type == "LayerNormalization" and node.attributes.get_int("axis", -1) not in (-1, 2):
        return ()
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and scalar(node.inputs[1]) is None:
        return ()
    if node.op_type == "MatMul" and _rank(node.inputs[1]) != 2:
        return ()
    if node.op_type == "Attention" and len(node.inputs) != 3:
        return ()
    return (0,)


def _of_two(node: ir.Node) -> tuple[int, ...]:
    found = []
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if array is not None:
            if array.ndim >= 2 and array.shape[-2] != 1:
                return ()
        elif _rank(value) == 3:
            found.append(index)
        else:
            return ()
    rows = {dims(v)[TOKENS] for i in found if (v := node.inputs[i]) is not None and v.shape is not None}
    return tuple(found) if len(found) == 1 or len(rows) == 1 else ()


def _row_of(graph: ir.Graph, value: ir.Value, row: int, before: ir.Node, taken: dict[ir.Value, ir.Value]) -> ir.Value:
    if value not in taken:
        node = ir.node("Gather", [value, add_ints(graph, [row])], {"axis": TOKENS}, name=f"{value.name}.row{row}")
        made = node.outputs[0]
        made.name, made.type = f"{value.name}.row{row}", value.type
        made.shape = None if value.shape is None else ir.Shape([value.shape[0], 1, value.shape[2]])
        graph.insert_before(before, node)
        taken[value] = made
    return taken[value]


def _rank(value: ir.Value | None) -> int | None:
    """Of elementwise results without a shape: the rank of what they were made from."""
    while value is not None and value.shape is None:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in (*ELEMENTWISE, *TWO_OPERANDS) else None
    return None if value is None or value.shape is None else len(value.shape)
