"""Fuses attention: MatMul, Softmax, MatMul and the layout changes of heads become one `Attention` (ONNX opset 23).

Query, key and value are matched as [batch, heads, tokens, depth], computed from [batch, tokens, heads * depth] by

1. Reshape and Transpose, each from its own tensor, or
2. one Reshape and Transpose of [batch, tokens, 3 * heads * depth], and a Gather for each; a Split replaces these.

An attention is not fused when anything stands between the first product and the Softmax (a mask, a position bias), or
between heads and product other than a positive scalar factor on the query, or when an inner tensor has other readers.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from qvit_deploy.graph.edit import add_ints, free_node_name, free_value_name
from qvit_deploy.graph.query import dims, perm_of, producer, rank, scalar, scaled, sole_reader


class _Heads(NamedTuple):
    """Part number `part` of the last axis of `source` [batch, tokens, parts * heads * depth], cut into `parts`."""

    source: ir.Value
    part: int
    parts: int
    heads: int


def fuse_attention(graph: ir.Graph) -> int:
    """Fuses every attention that matches and returns how many. Nodes that are no longer read stay in the graph."""
    return sum(_fuse(graph, node) for node in list(graph) if node.op_type == "Softmax")


def _fuse(graph: ir.Graph, softmax: ir.Node) -> bool:
    first, second = producer(softmax.inputs[0], "MatMul"), sole_reader(softmax.outputs[0])
    if first is None or sole_reader(first.outputs[0]) is None or second is None or second.op_type != "MatMul":
        return False
    query, key, value = first.inputs[0], producer(first.inputs[1], "Transpose"), second.inputs[1]
    merged = _merged(second)
    if query is None or key is None or key.inputs[0] is None or value is None or merged is None:
        return False
    if second.inputs[0] is not softmax.outputs[0] or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return False
    factor = scaled(query)
    query, scale = factor if factor is not None else (query, 1.0)
    split = [h for h in (_heads(query), _keys(key), _heads(value)) if h is not None]
    if len(split) < 3 or len({h.heads for h in split}) > 1 or not scale > 0:  # ONNX Runtime takes no other scale
        return False
    count = split[0].heads
    node = ir.node(
        "Attention",
        [_part(graph, h, softmax) for h in split],
        {"q_num_heads": count, "kv_num_heads": count, "scale": float(scale)},
        name=free_node_name(graph, f"{softmax.name}.attention"),
    )
    old, new = merged.outputs[0], node.outputs[0]
    new.shape, new.type = old.shape, old.type
    graph.insert_before(merged, node)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.heads"
    return True


def _heads(value: ir.Value) -> _Heads | None:
    """Returns what `value` [batch, heads, tokens, depth] is a part of, None when the pattern does not match."""
    gather = producer(value, "Gather")
    if gather is not None:
        part = scalar(gather.inputs[1])
        if gather.attributes.get_int("axis", 0) != 0 or part is None or rank(value) != 4:
            return None
        return _split_heads(gather.inputs[0], [2, 0, 3, 1, 4], int(part))
    return _split_heads(value, [0, 2, 1, 3], 0)


def _keys(transpose: ir.Node) -> _Heads | None:
    """Returns the same for the transposed keys [batch, heads, depth, tokens]."""
    assert transpose.inputs[0] is not None
    if perm_of(transpose) == [0, 1, 3, 2]:
        return _heads(transpose.inputs[0])
    return _split_heads(transpose.outputs[0], [0, 2, 3, 1], 0)


def _split_heads(value: ir.Value | None, perm: list[int], part: int) -> _Heads | None:
    """Matches a Reshape that splits the last axis into heads, and a Transpose by `perm`."""
    transpose = producer(value, "Transpose")
    if transpose is None or perm_of(transpose) != perm:
        return None
    reshape = producer(transpose.inputs[0], "Reshape")
    if reshape is None or reshape.inputs[0] is None or rank(reshape.inputs[0]) != 3:
        return None
    before, after = dims(reshape.inputs[0]), dims(reshape.outputs[0])
    parts, heads, depth = (1, *after[2:]) if len(after) == 4 else tuple(after[2:])
    sizes = (parts, heads, depth, before[2])
    if before[:2] != after[:2] or not all(isinstance(n, int) for n in sizes):
        return None
    if int(parts) * int(heads) * int(depth) != before[2]:
        return None
    return _Heads(reshape.inputs[0], part % int(parts), int(parts), int(heads))


def _merged(product: ir.Node) -> ir.Node | None:
    """Returns the Reshape that concatenates the heads of `product` [batch, heads, tokens, depth]."""
    transpose = sole_reader(product.outputs[0])
    if transpose is None or transpose.op_type != "Transpose" or perm_of(transpose) != [0, 2, 1, 3]:
        return None
    reshape = sole_reader(transpose.outputs[0])
    if reshape is None or reshape.op_type != "Reshape":
        return None
    split, merged = dims(transpose.outputs[0]), dims(reshape.outputs[0])
    return reshape if len(merged) == 3 and merged[:2] == split[:2] else None


def _part(graph: ir.Graph, heads: _Heads, before: ir.Node) -> ir.Value:
    """Returns the part as a tensor; adds the Split in front of `before` if there is none yet."""
    if heads.parts == 1:
        return heads.source
    for reader, _ in heads.source.uses():
        if reader.op_type == "Split":
            return reader.outputs[heads.part]
    width = int(dims(heads.source)[2]) // heads.parts
    node = ir.node(
        "Split",
        [heads.source, add_ints(graph, [width] * heads.parts)],
        {"axis": -1},
        num_outputs=heads.parts,
        name=free_node_name(graph, f"{heads.source.name}.Split"),
    )
    for index, output in enumerate(node.outputs):
        output.name, output.type = free_value_name(graph, f"{heads.source.name}.part{index}"), heads.source.type
        output.shape = ir.Shape([*dims(heads.source)[:2], width])
    graph.insert_before(before, node)
    return node.outputs[heads.part]
