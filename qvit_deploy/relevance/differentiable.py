"""Whether a backward pass can go through a graph at all: a step function stops it silently."""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import STEPS
from qvit_deploy.relevance.dataflow import Dataflow


def check_differentiable(graph: Graph) -> None:
    """Raises InputError naming the first node between image and logits that has no backward pass."""
    flow = Dataflow(graph)
    for node in graph.nodes():
        if flow.is_used(node) and (node.op_type in STEPS or _is_cast_to_integers(node)):
            raise InputError(
                f"operator {node.op_type} (node {node.name!r}) has no backward pass: its slope is zero, so nothing in "
                "front of it could be attributed. If it quantizes, export it as QuantizeLinear and DequantizeLinear"
            )


def _is_cast_to_integers(node: ir.Node) -> bool:
    """Tells whether a node makes integers of other numbers: what was an index before (TopK's) had no slope."""
    x = node.inputs[0] if node.op_type == "Cast" else None
    if x is None or (x.dtype is not None and not x.dtype.is_floating_point()):
        return False
    return not ir.DataType(node.attributes["to"].as_int()).is_floating_point()
