"""Rules on normalisation and activation functions: TensorRT wants the operators, not their formulas."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from qvit_deploy.graph.canonicalize.rewrites import gelu, layer_norm
from qvit_deploy.lint.finding import TENSORRT, Hit, Rule
from qvit_deploy.lint.view import View


def _layer_norms(view: View) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Yields the last node and the input of every LayerNorm that is decomposed into arithmetic."""
    for node in view.named("Div", "Mul"):
        try:
            match = layer_norm.decomposed(node)
        except Exception:  # nodes of untrusted files may lack inputs or have attributes of the wrong type
            continue
        if match is not None:
            yield node, match[0]


def _wide_layer_norm(view: View) -> Iterator[Hit]:
    for node, x in _layer_norms(view):
        if x.dtype != ir.DataType.FLOAT16:
            yield node, f"a LayerNorm of {x.name!r} written as arithmetic"


def _half_layer_norm(view: View) -> Iterator[Hit]:
    for node, x in _layer_norms(view):
        if x.dtype == ir.DataType.FLOAT16:
            yield node, f"a LayerNorm of {x.name!r} written as float16 arithmetic"


def _gelu(view: View) -> Iterator[Hit]:
    for node in view.named("Erf", "Tanh"):
        try:
            match = gelu.decomposed(node)
        except Exception:  # as above
            continue
        if match is not None:
            yield node, f"a GELU of {match[1].name!r} written as arithmetic"


RULES = (
    Rule("TRT501", "warning", TENSORRT, "LayerNorm is written out",
         "LayerNormalization becomes one kernel that sums in float32; the arithmetic becomes several, and overflows as "
         "soon as somebody converts the file to float16.",
         "Export with opset 17 or later.",
         "documentation", _wide_layer_norm),
    Rule("TRT502", "error", TENSORRT, "LayerNorm is written out in float16",
         "Squares of more than 255 overflow, and ViTs hold values around 1000: FP16 ViT-B/16 fell from 85 % to 19 % "
         "top-1.",
         "Export LayerNormalization (opset 17), or keep that arithmetic in float32.",
         "parser", _half_layer_norm),
    Rule("TRT503", "note", TENSORRT, "GELU is written out",
         "TensorRT recognises the common forms only; the operator is always one kernel.",
         "Export with opset 20, which has Gelu.",
         "documentation", _gelu),
)  # fmt: skip
