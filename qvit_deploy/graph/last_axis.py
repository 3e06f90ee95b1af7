"""Whether a node that moves values leaves the last axis (the channels of [batch, tokens, channels]) as it is.

Each function takes a node whose first input and first output have shapes, and returns False when it cannot tell.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.graph.graph import constant


def _ranks(node: ir.Node) -> tuple[int, int]:
    """Ranks of the first input and of the first output."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None and x.shape is not None and y.shape is not None
    return len(x.shape), len(y.shape)


def kept_by_transpose(node: ir.Node) -> bool:
    """Tells whether the permutation ends with the last axis."""
    rank = _ranks(node)[0]
    perm = node.attributes.get_ints("perm", list(range(rank))[::-1])
    return perm[-1] == rank - 1


def kept_by_reshape(node: ir.Node) -> bool:
    """Tells whether the target, a constant, ends with the size that the last axis has."""
    x, shape = node.inputs[0], constant(node.inputs[1])
    assert x is not None and x.shape is not None
    return shape is not None and isinstance(x.shape[-1], int) and int(shape[-1]) == x.shape[-1]


def kept_by_slice(node: ir.Node) -> bool:
    """Tells whether the axes are given, are constant, and the last is not among them."""
    rank, axes = _ranks(node)[0], constant(node.inputs[3]) if len(node.inputs) > 3 else None
    return axes is not None and all(int(a) % rank != rank - 1 for a in axes)


def kept_by_gather(node: ir.Node) -> bool:
    """Tells whether it gathers along another axis, by constant indices."""
    return kept_by_axis(node) and node.inputs[1] is not None and node.inputs[1].is_initializer()


def kept_by_axis(node: ir.Node) -> bool:
    """Its attribute `axis` (0 when absent) is another axis: Split and Concat."""
    rank = _ranks(node)[0]
    return node.attributes.get_int("axis", 0) % rank != rank - 1


def kept_by_squeeze(node: ir.Node) -> bool:
    """Tells whether the removed axes are constant, and the last is not among them."""
    return _axes_before_last(node, _ranks(node)[0])


def kept_by_unsqueeze(node: ir.Node) -> bool:
    """Tells whether the added axes are constant, and the last of the result is not among them."""
    return _axes_before_last(node, _ranks(node)[1])


def _axes_before_last(node: ir.Node, rank: int) -> bool:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return axes is not None and all(int(a) % rank != rank - 1 for a in axes)
