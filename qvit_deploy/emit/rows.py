"""Only the tokens that are read: behind the last attention, operators that treat tokens alike run on those alone.

A classifier that reads one token, or two with distillation (Gathers on the token axis, as models with such tokens end),
needs of its last block no other token's output, projection or MLP. The Gathers move up through operators that compute
every row of axis 1 from the same row of their inputs, and through the query of `Attention`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.edit import add_constant, add_ints, free_node_name, free_value_name
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.op_traits import KEEPS_ROWS, KEEPS_ROWS_OF_BOTH, QUANTIZERS
from qvit_deploy.graph.query import dims, scalar

TOKENS = 1
"""The axis, of [batch, tokens, channels]."""


def keep_read_rows(graph: ir.Graph) -> dict[str, tuple[int, ...]]:
    """Narrows the graph to the rows that are read and returns tensor -> the rows of it that are still computed, in
    their order; empty when no such Gather ends the graph.

    Nodes come out unsorted, so sort the graph afterwards.
    """
    readers: dict[ir.Value, dict[ir.Node, int]] = {}
    for gather in [node for node in graph if node.op_type == "Gather"]:
        source, index = gather.inputs[0], gather.inputs[1]
        row, axis = scalar(index), gather.attributes.get_int("axis", 0)
        if row is None or source is None or index is None or index.shape is None or len(index.shape) != 0:
            continue
        if _rank(source) == 3 and axis in (TOKENS, TOKENS - 3):
            readers.setdefault(source, {})[gather] = int(row)
    computed: dict[str, tuple[int, ...]] = {}
    for gathers in readers.values():
        computed |= _narrow(graph, gathers)
    return computed


def _narrow(graph: ir.Graph, gathers: Mapping[ir.Node, int]) -> dict[str, tuple[int, ...]]:
    """Does the same for Gathers, and the rows they take, that read one tensor."""
    rows = tuple(dict.fromkeys(gathers.values()))
    narrow: dict[ir.Node, tuple[int, ...]] = {}
    for node in reversed(list(graph)):
        operands = _row_operands(node)
        output = node.outputs[0]
        uses = [(u.node, u.idx) for u in output.uses()]
        read = all((n in gathers and i == 0) or i in narrow.get(n, ()) for n, i in uses)
        if operands and uses and read and not output.is_graph_output() and len(node.outputs) == 1:
            narrow[node] = operands
    gathered: dict[ir.Value, ir.Value] = {}
    for node, operands in narrow.items():
        for index in operands:
            value = node.inputs[index]
            assert value is not None
            if value.producer() not in narrow:
                node.replace_input_with(index, _rows_of(graph, value, rows, node, gathered))
    for node in narrow:
        output = node.outputs[0]
        output.shape = None if output.shape is None else ir.Shape([output.shape[0], len(rows), output.shape[2]])
    if narrow:
        for gather, row in gathers.items():
            if len(rows) == 1:
                _squeeze(graph, gather)
            else:
                position = rows.index(row)
                gather.replace_input_with(1, add_constant(graph, f"row_{position}", np.array(position, np.int64)))
    return {str(node.outputs[0].name): rows for node in narrow}


def _squeeze(graph: ir.Graph, gather: ir.Node) -> None:
    """Puts a Squeeze in place of the Gather of the only row."""
    squeeze = ir.node(
        "Squeeze", [gather.inputs[0], add_ints(graph, [TOKENS])], name=free_node_name(graph, f"{gather.name}.Squeeze")
    )
    old, new = gather.outputs[0], squeeze.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(gather, squeeze)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.all"
    graph.remove(gather, safe=True)


def _row_operands(node: ir.Node) -> tuple[int, ...]:
    """Returns the operands whose rows become the rows of the result; none when rows mix, or when it cannot be told."""
    output = node.outputs[0]
    if _rank(output) != 3:
        return ()
    if node.op_type in KEEPS_ROWS_OF_BOTH:
        return _operands_with_rows(node)
    if node.op_type not in KEEPS_ROWS | {"MatMul", "Attention"} or _rank(node.inputs[0]) != 3:
        return ()
    if node.op_type == "LayerNormalization" and node.attributes.get_int("axis", -1) not in (-1, 2):
        return ()
    if node.op_type in QUANTIZERS and scalar(node.inputs[1]) is None:
        return ()
    if node.op_type == "MatMul" and _rank(node.inputs[1]) != 2:
        return ()
    if node.op_type == "Attention" and len(node.inputs) != 3:
        return ()
    return (0,)


def _operands_with_rows(node: ir.Node) -> tuple[int, ...]:
    """Returns the operands, of an operator on two, that have the rows of the result; none when one of them mixes
    rows."""
    operands = []
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if array is not None:
            if array.ndim >= 2 and array.shape[-2] != 1:
                return ()
        elif _rank(value) == 3:
            operands.append(index)
        else:
            return ()
    rows = {dims(v)[TOKENS] for i in operands if (v := node.inputs[i]) is not None and v.shape is not None}
    return tuple(operands) if len(operands) == 1 or len(rows) == 1 else ()


def _rows_of(
    graph: ir.Graph, value: ir.Value, rows: tuple[int, ...], before: ir.Node, gathered: dict[ir.Value, ir.Value]
) -> ir.Value:
    """Returns a Gather of `rows` from `value`, one for all its readers."""
    if value not in gathered:
        name = free_value_name(graph, f"{value.name}.row" + "_".join(map(str, rows)))
        node = ir.node("Gather", [value, add_ints(graph, rows)], {"axis": TOKENS}, name=free_node_name(graph, name))
        output = node.outputs[0]
        output.name, output.type = name, value.type
        output.shape = None if value.shape is None else ir.Shape([value.shape[0], len(rows), value.shape[2]])
        graph.insert_before(before, node)
        gathered[value] = output
    return gathered[value]


def _rank(value: ir.Value | None) -> int | None:
    """Returns the number of dimensions; of an elementwise result without a shape that of its first operand."""
    while value is not None and value.shape is None:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in KEEPS_ROWS | KEEPS_ROWS_OF_BOTH else None
    return None if value is None or value.shape is None else len(value.shape)
