"""Softmax works on the tensor itself.

Before opset 13 it worked on a matrix, so converted files hold Reshape, Softmax, Reshape. One rule: where the matrix has
the last axis of the tensor, and the tensor gets its shape back, both Reshapes go (Softmax, LogSoftmax and Hardmax).
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.graph.edit import emit, remove_unused, replace
from qvit_deploy.graph.query import dims, producer, rank, sole_reader


def unflatten_softmaxes(model: ir.Model) -> None:
    """Applies the rule in place; shapes must be known up to the batch."""
    for node in list(model.graph):
        if node.op_type not in ("Softmax", "LogSoftmax", "Hardmax"):
            continue
        flat, y = node.inputs[0], node.outputs[0]
        before, after = producer(flat, "Reshape", "Flatten"), sole_reader(y, "Reshape")
        x = before.inputs[0] if before is not None else None
        if flat is None or x is None or after is None or after.inputs[0] is not y:
            continue
        on_rows = node.attributes.get_int("axis", -1) % rank(flat) == rank(flat) - 1
        if on_rows and dims(x)[-1] == dims(flat)[-1] and dims(x) == dims(after.outputs[0]):
            replace(after.outputs[0], emit(node, node.op_type, [x], dims(x), {"axis": -1}))
    remove_unused(model)
