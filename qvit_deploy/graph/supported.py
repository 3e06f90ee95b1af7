"""Which operators can be compiled at all, known before anything is computed."""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import UnsupportedOpError
from qvit_deploy.graph.op_traits import REFUSED, TRAITS

STANDARD = ("", "ai.onnx")
"""The names of the domain whose operators ONNX defines."""

_UNKNOWN = "export the model with standard ONNX operators, or add it to a file of qvit_deploy/execute/ops"


def runs(node: ir.Node) -> bool:
    """Tells whether the executor has a function for the operator of a node, whatever its attributes."""
    return node.domain in STANDARD and node.op_type in TRAITS and node.op_type not in REFUSED


def unsupported(node: ir.Node) -> UnsupportedOpError:
    """Returns the error that says why the operator of a node, for which `runs` is False, does not run."""
    if node.domain in STANDARD:
        traits = TRAITS.get(node.op_type)
        return UnsupportedOpError(node.op_type, node.name or "?", (traits and traits.refused) or _UNKNOWN)
    return UnsupportedOpError(f"{node.domain}.{node.op_type}", node.name or "?", _UNKNOWN)
