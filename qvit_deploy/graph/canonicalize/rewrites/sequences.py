"""SplitToSequence + SequenceAt (what torch writes for `unbind` and `chunk`) -> Gather or Slice.

Rules, in order:
1. pieces of one element without the axis (keepdims=0): SequenceAt(i) is Gather(x, i) along the axis;
2. other pieces: SequenceAt(i) is the Slice between the sums of the sizes before and up to it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.errors import UnsupportedOpError
from qvit_deploy.graph.edit import add_constant, add_ints, free_value_name, remove_unused
from qvit_deploy.graph.query import ints, producer


def remove_sequences(model: ir.Model) -> None:
    """Applies the rules in place.

    Raises:
        UnsupportedOpError: an index or the sizes of the pieces are not constant.
    """
    graph = model.graph
    for node in list(graph):
        split = producer(node.inputs[0], "SplitToSequence") if node.op_type == "SequenceAt" else None
        if split is None:
            continue
        has_split = len(split.inputs) > 1 and split.inputs[1] is not None
        index, sizes = ints(node.inputs[1]), ints(split.inputs[1]) if has_split else [1]
        if index is None or sizes is None or index[0] < 0:
            raise UnsupportedOpError("SequenceAt", node.name or "", "its index or its split sizes depend on the image")
        if len(sizes) == 1:  # one size for all pieces
            sizes = sizes * (index[0] + 1)
        axis, start, size = split.attributes.get_int("axis", 0), sum(sizes[: index[0]]), sizes[index[0]]
        if not has_split and split.attributes.get_int("keepdims", 1) == 0:
            position = add_constant(graph, f"index_{start}", np.asarray(start, dtype=np.int64))
            piece = ir.node("Gather", [split.inputs[0], position], {"axis": axis})
        else:
            bounds = [add_ints(graph, [n]) for n in (start, start + size, axis)]
            piece = ir.node("Slice", [split.inputs[0], *bounds])
        piece.name = node.name
        piece.outputs[0].name = free_value_name(graph, f"{node.outputs[0].name}.piece")
        piece.metadata_props.update(node.metadata_props)
        graph.insert_before(node, piece)
        ir.convenience.replace_all_uses_with(node.outputs[0], piece.outputs[0], replace_graph_outputs=True)
    remove_unused(model)
