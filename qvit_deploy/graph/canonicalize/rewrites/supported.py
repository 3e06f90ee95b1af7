"""Which operators of a model cannot be compiled: all of them are named, before anything is computed.

What does not depend on pixels may be any standard operator, for ONNX Runtime computes it (`measure.py`). The standard
operators in the branches of an If are looked at when it is known which of them is taken.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from qvit_deploy.errors import UnsupportedOpError, all_unsupported
from qvit_deploy.graph.canonicalize.provenance import Provenance
from qvit_deploy.graph.canonicalize.rewrites.fused import DOMAIN, fused_operator
from qvit_deploy.graph.canonicalize.rewrites.sequences import SEQUENCES
from qvit_deploy.graph.graph import CANONICAL_OPSET
from qvit_deploy.graph.supported import STANDARD, runs, unsupported

_REWRITTEN = SEQUENCES | {"CastLike", "Constant", "If"}
"""Standard operators of which canonicalization leaves none, or refuses the node."""

_OLD = frozenset({"Scatter", "Upsample"})
"""Operators of old opsets that have another name now."""

_ONE_PROCESSOR = (
    "the file was optimized for one kind of processor (ORT_ENABLE_ALL); save it with ORT_ENABLE_EXTENDED, or hand in "
    "the model that it was made from"
)
_QUANTIZED = "the model is already quantized; compile takes the float model"
_FOREIGN = (
    "only standard ONNX operators can be compiled; export the model without custom operators or graph optimisations"
)


def require_supported(model: ir.Model) -> None:
    """Raises InputError that names every operator of `model`, at its own opset, that cannot be compiled."""
    data_nodes = Provenance(model.graph).data_nodes
    errors = [error for node in model.graph.all_nodes() if (error := _problem(node, node in data_nodes)) is not None]
    if errors:
        raise all_unsupported(errors)


def _problem(node: ir.Node, is_data: bool) -> UnsupportedOpError | None:
    name = node.name or ""
    fused = fused_operator(node)
    if fused is not None:
        why = fused.refusal(node)
        return None if why is None else UnsupportedOpError(f"{DOMAIN}.{node.op_type}", name, why)
    if node.domain not in STANDARD:
        return UnsupportedOpError(f"{node.domain}.{node.op_type}", name, _why_foreign(node))
    if not is_data or runs(node) or node.op_type in _REWRITTEN | _OLD or _has_body(node.op_type):
        return None
    return unsupported(node)


def _why_foreign(node: ir.Node) -> str:
    if node.domain == f"{DOMAIN}.nchwc":
        return _ONE_PROCESSOR
    if node.domain == DOMAIN and node.op_type.startswith(("Q", "DynamicQuant", "MatMulNBits", "MatMulInteger")):
        return _QUANTIZED
    return _FOREIGN


def _has_body(op_type: str) -> bool:
    """Tells whether an operator younger than the canonical opset has a function body, which takes its place."""
    if onnx.defs.has(op_type, CANONICAL_OPSET) or not onnx.defs.has(op_type):
        return False
    schema = onnx.defs.get_schema(op_type)
    return bool(schema.has_function or schema.has_context_dependent_function)  # type: ignore[attr-defined]
