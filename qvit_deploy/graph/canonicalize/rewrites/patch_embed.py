"""A patch embedding is a Linear over pixels of a patch.

Rules, in order:
1. a Conv with kernel == stride, no padding, no dilation, one group, on sizes the kernel divides becomes
   Reshape, Transpose, Reshape (image -> tokens of patch pixels), MatMul, Add;
2. its output goes back to [batch, out, rows, columns] by Transpose and Reshape;
3. a reader that is Transpose(0, 2, 3, 1) takes the tokens reshaped to [batch, rows, columns, out] directly
   (flatten + transpose readers are undone by `layout.py`, rule 4).
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.graph.edit import add_constant, add_ints, emit, remove_unused, replace, shape_constant
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import dims, perm_of, rank


def convs_to_linears(model: ir.Model) -> None:
    """Applies the rules in place; shapes must be known. Every other Conv stays."""
    for node in list(model.graph):
        if node.op_type == "Conv" and _is_patch_embedding(node):
            _rewrite(model.graph, node)
    remove_unused(model)


def _is_patch_embedding(node: ir.Node) -> bool:
    x, weight = node.inputs[0], constant(node.inputs[1])
    if x is None or weight is None or weight.ndim != 4:
        return False
    kernel = list(weight.shape[2:])
    size = dims(x)[2:]
    return (
        list(node.attributes.get_ints("strides", [1, 1])) == kernel
        and not any(node.attributes.get_ints("pads", [0]))
        and node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        and all(d == 1 for d in node.attributes.get_ints("dilations", [1]))
        and node.attributes.get_int("group", 1) == 1
        and all(isinstance(d, int) and d % k == 0 for d, k in zip(size, kernel, strict=True))
    )


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    x, w, out = node.inputs[0], node.inputs[1], node.outputs[0]
    weight = constant(w)
    assert x is not None and w is not None and weight is not None
    width, channels, ph, pw = weight.shape
    batch, _, rows, columns = dims(out)
    assert isinstance(rows, int) and isinstance(columns, int)
    tokens, pixels = rows * columns, channels * ph * pw

    split = [batch, channels, rows, ph, columns, pw]
    lead = -1 if isinstance(batch, str) else batch
    x = emit(node, "Reshape", [x, add_ints(graph, [lead, *map(int, split[1:])])], split)
    order = [0, 2, 4, 1, 3, 5]
    x = emit(node, "Transpose", [x], [split[i] for i in order], {"perm": order})
    x = emit(node, "Reshape", [x, add_ints(graph, [lead, tokens, pixels])], [batch, tokens, pixels])
    name = str(w.name)
    w.name = f"{name}/conv"
    matrix = add_constant(graph, name, weight.reshape(width, pixels).T)
    y = emit(node, "MatMul", [x, matrix], [batch, tokens, width])
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        y = emit(node, "Add", [y, node.inputs[2]], [batch, tokens, width])

    for reader in [use.node for use in out.uses()]:
        if reader.op_type == "Transpose" and rank(out) == 4 and perm_of(reader) == [0, 2, 3, 1]:
            shape = dims(reader.outputs[0])
            target = shape_constant(graph, shape)
            assert target is not None
            replace(reader.outputs[0], emit(reader, "Reshape", [y, target], shape))
            graph.remove(reader, safe=True)
    if out.uses() or out.is_graph_output():
        y = emit(node, "Transpose", [y], [batch, width, tokens], {"perm": [0, 2, 1]})
        target = add_ints(graph, [lead, width, rows, columns])
        replace(out, emit(node, "Reshape", [y, target], dims(out)))
    graph.remove(node, safe=True)
