"""Sequences of tensors, taken apart or put together -> Gather, Slice, Concat.

torch writes SplitToSequence and SequenceAt for `unbind` and `chunk`, SequenceConstruct and ConcatFromSequence for
`stack` and `cat` of a list, SequenceEmpty and SequenceInsert for a list that a scripted loop fills. A list is made of
these three. Rules, in order:
1. SequenceAt(list, i) is the tensor itself;
2. ConcatFromSequence(list) is Concat, of Unsqueezes where it makes a new axis;
3. pieces of one element without the axis (keepdims=0): SequenceAt(i) is Gather(x, i) along the axis;
4. other pieces: SequenceAt(i) is the Slice between the sums of the sizes before and up to it. Of pieces of more than
   one element whose number the axis decides, none is found by counting from the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qvit_deploy.errors import UnsupportedOpError, all_unsupported
from qvit_deploy.graph.canonicalize.rewrites.fused_call import Call
from qvit_deploy.graph.edit import add_constant, add_ints, free_value_name, remove_unused
from qvit_deploy.graph.query import ints, producer

SEQUENCES = frozenset(
    {"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SplitToSequence"}
)
"""The operators of which `remove_sequences` leaves none."""


def remove_sequences(model: ir.Model) -> None:
    """Applies the rules in place.

    Raises:
        InputError: an index or the sizes of the pieces are not constant, or a sequence is made otherwise.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type in ("SequenceAt", "ConcatFromSequence"):
            listed = _listed(node.inputs[0])
            if listed:
                _from_list(node, listed)
    for node in list(graph):
        split = producer(node.inputs[0], "SplitToSequence") if node.op_type == "SequenceAt" else None
        if split is None:
            continue
        has_split = len(split.inputs) > 1 and split.inputs[1] is not None
        index, sizes = ints(node.inputs[1]), ints(split.inputs[1]) if has_split else [1]
        if index is None or sizes is None:
            raise UnsupportedOpError("SequenceAt", node.name or "", "its index or its split sizes depend on the image")
        axis = split.attributes.get_int("axis", 0)
        start, end = _bounds(node, index[0], sizes)
        if not has_split and split.attributes.get_int("keepdims", 1) == 0:
            position = add_constant(graph, f"index_{start}", np.asarray(start, dtype=np.int64))
            piece = ir.node("Gather", [split.inputs[0], position], {"axis": axis})
        else:
            bounds = [add_ints(graph, [n]) for n in (start, end, axis)]
            piece = ir.node("Slice", [split.inputs[0], *bounds])
        piece.name = node.name
        piece.outputs[0].name = free_value_name(graph, f"{node.outputs[0].name}.piece")
        piece.metadata_props.update(node.metadata_props)
        graph.insert_before(node, piece)
        ir.convenience.replace_all_uses_with(node.outputs[0], piece.outputs[0], replace_graph_outputs=True)
    remove_unused(model)
    left = [node for node in graph if node.op_type in SEQUENCES]
    if left:
        hint = "its sequence is made in a way that has no tensors; export the model without lists of tensors"
        raise all_unsupported([UnsupportedOpError(node.op_type, node.name or "", hint) for node in left])


def _bounds(node: ir.Node, index: int, sizes: Sequence[int]) -> tuple[int, int]:
    """Returns where the piece begins and ends that a SequenceAt takes."""
    if len(sizes) > 1:
        index %= len(sizes)
        return sum(sizes[:index]), sum(sizes[: index + 1])
    (size,) = sizes  # of all pieces
    if index < 0 and size > 1:
        why = "it counts from the end pieces whose number is not known; export the model with torch.split of a list"
        raise UnsupportedOpError("SequenceAt", node.name or "", why)
    return index * size, np.iinfo(np.int64).max if index == -1 else (index + 1) * size


def _listed(sequence: ir.Value | None) -> list[ir.Value] | None:
    """Returns the tensors of a list, None where it is none."""
    node = producer(sequence, "SequenceConstruct", "SequenceEmpty", "SequenceInsert")
    if node is None:
        return None
    if node.op_type != "SequenceInsert":
        return [value for value in node.inputs if value is not None]
    before, position = _listed(node.inputs[0]), node.inputs[2] if len(node.inputs) > 2 else None
    where = [len(before or [])] if position is None else ints(position)
    if before is None or where is None or node.inputs[1] is None:
        return None
    before.insert(where[0], node.inputs[1])
    return before


def _from_list(node: ir.Node, tensors: list[ir.Value]) -> None:
    """Applies rules 1 and 2."""
    call = Call(node)
    if node.op_type == "SequenceAt":
        index = ints(node.inputs[1])
        if index is None:
            raise UnsupportedOpError("SequenceAt", node.name or "", "its index depends on the image")
        call.put(call.op("Identity", tensors[index[0]]))
        return
    axis = call.attr("axis", None)
    if call.attr("new_axis", 0):
        tensors = [call.op("Unsqueeze", tensor, call.ints(axis)) for tensor in tensors]
    call.put(call.op("Concat", *tensors, axis=axis))
