"""Resize has constant scales, or constant sizes where the batch is fixed.

Rules, in order:
1. the region of interest is dropped (only tf_crop_and_resize reads it);
2. a Resize to the size that a map has already is no operator: every kernel is 1 at its own place and 0 at the others;
3. sizes that hold the batch (exporters write Concat(Shape(x)[:2], sizes)) become scales, where these give the same
   sizes in the float32 arithmetic of runtimes, which compute the same scales from sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.edit import add_constant, remove_unused, replace
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import Dim, dims


def normalise_resizes(model: ir.Model) -> None:
    """Applies the rules in place; shapes must be known up to the batch."""
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Resize" or _mode(node) == "tf_crop_and_resize":
            continue
        x, out = node.inputs[0], node.outputs[0]
        assert x is not None
        node.resize_inputs(4)
        node.replace_input_with(1, None)
        scales, sizes = constant(node.inputs[2]), node.inputs[3]
        if dims(x) == dims(out) and (sizes is not None or (scales is not None and (scales == 1).all())):
            replace(out, x)
            graph.remove(node, safe=True)
        elif sizes is not None and constant(sizes) is None and "axes" not in node.attributes:
            factors = _scales(dims(x), dims(out))
            if factors is not None:
                node.replace_input_with(2, add_constant(graph, f"{node.name}/scales", factors))
                node.replace_input_with(3, None)
    remove_unused(model)


def _mode(node: ir.Node) -> str:
    return node.attributes.get_string("coordinate_transformation_mode", "half_pixel")


def _scales(before: Sequence[Dim], after: Sequence[Dim]) -> np.ndarray | None:
    """Returns float32 scales that make sizes `after` of `before`; None where none do or a size is unknown."""
    scales = np.ones(len(before), dtype=np.float32)
    for i, (size, wanted) in enumerate(zip(before, after, strict=True)):
        if size == wanted:
            continue
        if not isinstance(size, int) or not isinstance(wanted, int):
            return None
        scales[i] = np.float32(wanted) / np.float32(size)
        if int(scales[i] * np.float32(size)) != wanted:
            return None
    return scales
