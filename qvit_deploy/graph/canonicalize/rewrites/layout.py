"""Reshape and Transpose in their shortest form.

Rules, in order, repeated until none fires:
1. Slice of one element + Squeeze of that axis, and Split into single elements + Squeeze, -> Gather with a
   scalar index;
2. Squeeze, Unsqueeze, Flatten -> Reshape with a constant target;
3. Reshape of a Reshape -> one Reshape; Transpose of a Transpose -> one Transpose;
4. Transpose, Reshape, Transpose that together move no element -> Reshape;
5. Transpose that only moves axes of length 1 -> Reshape;
6. Reshape, Transpose, Reshape that together swap the last two axes (k^T of a batched product) -> Transpose.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.canonicalize.rewrites.noop import remove_noops
from qvit_deploy.graph.edit import add_index, emit, remove_unused, replace, shape_constant
from qvit_deploy.graph.op_traits import RESHAPES
from qvit_deploy.graph.query import Dim, dims, ints, perm_of, producer, sole_reader

_PROBE_BATCH = 11  # a stand-in for the batch when an index permutation is computed: hardly any other axis is as long


def simplify_layout(model: ir.Model) -> None:
    """Applies the rules in place, with those of `noop.py` in between; shapes must be known up to the batch."""
    rules = (
        _select,
        _select_from_split,
        _to_reshape,
        _merge_reshapes,
        _merge_transposes,
        _cancel_around_reshape,
        _moves_nothing,
        _swap,
    )
    changed = True
    while changed:
        changed = False
        for node in list(model.graph):
            changed |= any(rule(model.graph, node) for rule in rules)
        remove_unused(model)
        remove_noops(model)


def _select(graph: ir.Graph, node: ir.Node) -> bool:
    """Applies rule 1."""
    cut = producer(node.inputs[0], "Slice") if node.op_type in ("Squeeze", "Reshape") else None
    if cut is None or len(cut.inputs) < 4:
        return False
    x = cut.inputs[0]
    starts, axes = ints(cut.inputs[1]), ints(cut.inputs[3])
    if x is None or starts is None or axes is None or len(axes) != 1:
        return False
    axis = axes[0] % len(dims(x))
    length, size = dims(x)[axis], dims(cut.outputs[0])
    if size[axis] != 1 or not isinstance(length, int) or dims(node.outputs[0]) != size[:axis] + size[axis + 1 :]:
        return False
    start = starts[0] if starts[0] >= 0 else starts[0] + length
    return _gather(graph, node, x, min(max(start, 0), length - 1), axis)  # a Slice may begin outside


def _select_from_split(graph: ir.Graph, node: ir.Node) -> bool:
    """Applies rule 1 to the form of TorchScript's unbind."""
    split = producer(node.inputs[0], "Split") if node.op_type in ("Squeeze", "Reshape") else None
    if split is None or split.inputs[0] is None or node.inputs[0] is None:
        return False
    x, piece = split.inputs[0], dims(node.inputs[0])
    axis = split.attributes.get_int("axis", 0) % len(piece)
    single = all(dims(out)[axis] == 1 for out in split.outputs)
    if not single or dims(node.outputs[0]) != piece[:axis] + piece[axis + 1 :]:
        return False
    return _gather(graph, node, x, split.outputs.index(node.inputs[0]), axis)


def _gather(graph: ir.Graph, node: ir.Node, x: ir.Value, index: int, axis: int) -> bool:
    _become(
        node, emit(node, "Gather", [x, add_index(graph, index)], dims(node.outputs[0]), {"axis": axis}, _type(node))
    )
    return True


def _to_reshape(graph: ir.Graph, node: ir.Node) -> bool:
    """Applies rule 2."""
    if node.op_type not in RESHAPES or node.op_type == "Reshape":
        return False
    assert node.inputs[0] is not None
    return _reshape(graph, node, node.inputs[0])


def _merge_reshapes(graph: ir.Graph, node: ir.Node) -> bool:
    """Applies rule 3 to a Reshape."""
    first = producer(node.inputs[0], "Reshape") if node.op_type == "Reshape" else None
    return first is not None and first.inputs[0] is not None and _reshape(graph, node, first.inputs[0])


def _merge_transposes(graph: ir.Graph, node: ir.Node) -> bool:
    """Applies rule 3 to a Transpose."""
    first = producer(node.inputs[0], "Transpose") if node.op_type == "Transpose" else None
    if first is None:
        return False
    perm = [perm_of(first)[axis] for axis in perm_of(node)]
    shape = dims(node.outputs[0])
    _become(node, emit(node, "Transpose", [first.inputs[0]], shape, {"perm": perm}, _type(node)))
    return True


def _cancel_around_reshape(graph: ir.Graph, node: ir.Node) -> bool:
    """Applies rule 4 to the flatten(2).transpose(1, 2) behind a patch embedding that is already in token order."""
    chain = _chain(node, "Transpose", "Reshape")
    if chain is None:
        return False
    x, first, middle = chain
    if sole_reader(middle.outputs[0]) is None or sole_reader(first.outputs[0]) is None:
        return False
    start = _numbers(dims(x))
    inner = _numbers(dims(middle.outputs[0]))
    if start is None or inner is None or math.prod(start) != math.prod(inner):
        return False
    elements = np.arange(math.prod(start)).reshape(start).transpose(perm_of(first)).reshape(inner)
    if not np.array_equal(elements.transpose(perm_of(node)).reshape(-1), np.arange(elements.size)):
        return False
    return _reshape(graph, node, x)


def _moves_nothing(graph: ir.Graph, node: ir.Node) -> bool:
    """Applies rule 5."""
    if node.op_type != "Transpose" or node.inputs[0] is None:
        return False
    sizes = dims(node.inputs[0])
    axes = [axis for axis in perm_of(node) if sizes[axis] != 1]
    return axes == sorted(axes) and _reshape(graph, node, node.inputs[0])


def _swap(graph: ir.Graph, node: ir.Node) -> bool:
    """Applies rule 6."""
    chain = _chain(node, "Reshape", "Transpose")
    if chain is None:
        return False
    x, first, middle = chain
    before, after = dims(x), dims(node.outputs[0])
    if len(before) < 3 or after != [*before[:-2], before[-1], before[-2]]:
        return False
    start, inner = _numbers(before), _numbers(dims(first.outputs[0]))
    if start is None or inner is None or math.prod(start) != math.prod(inner):
        return False
    elements = np.arange(math.prod(start))
    permuted = elements.reshape(inner).transpose(perm_of(middle)).reshape(-1)
    if not np.array_equal(permuted, elements.reshape(start).swapaxes(-1, -2).reshape(-1)):
        return False
    perm = [*range(len(before) - 2), len(before) - 1, len(before) - 2]
    _become(node, emit(node, "Transpose", [x], after, {"perm": perm}, _type(node)))
    return True


def _chain(last: ir.Node, outer: str, inner: str) -> tuple[ir.Value, ir.Node, ir.Node] | None:
    """Returns (x, first, middle) when `last` ends x -> outer -> inner -> outer."""
    middle = producer(last.inputs[0], inner) if last.op_type == outer else None
    first = producer(middle.inputs[0], outer) if middle is not None else None
    if first is None or middle is None or first.inputs[0] is None:
        return None
    return first.inputs[0], first, middle


def _reshape(graph: ir.Graph, node: ir.Node, x: ir.Value) -> bool:
    """Replaces `node` by one Reshape of `x`; False when the target shape is not constant."""
    target = shape_constant(graph, dims(node.outputs[0]))
    if target is None:
        return False
    _become(node, emit(node, "Reshape", [x, target], dims(node.outputs[0]), dtype=_type(node)))
    return True


def _become(node: ir.Node, value: ir.Value) -> None:
    replace(node.outputs[0], value)
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)


def _type(node: ir.Node) -> ir.DataType:
    return node.outputs[0].dtype or ir.DataType.FLOAT


def _numbers(shape: list[Dim]) -> list[int] | None:
    """Returns concrete sizes for a probe; only multiples of the batch can be stood in for."""
    sizes = []
    for d in shape:
        if isinstance(d, str):
            factor = d.removesuffix("batch").removesuffix("*") or "1"
            if not d.endswith("batch") or not factor.isdigit():
                return None
            d = int(factor) * _PROBE_BATCH
        sizes.append(d)
    return sizes
