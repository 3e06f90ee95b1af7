"""Rules on attention: the pattern that TensorRT fuses into one kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from qvit_deploy.graph.op_traits import MOVES, ON_PROBABILITIES, ON_SCORES, QUANTIZERS, SCALES
from qvit_deploy.lint.finding import TENSORRT, Hit, Rule
from qvit_deploy.lint.view import View, readers, sizes

LONGEST_INT8 = 512
"""Tokens of the longest sequence that TensorRT's INT8 attention takes (NVIDIA/TensorRT issue 3724)."""
_FP8_HEADS = range(9, 257)
"""Head sizes that TensorRT's FP8 attention takes."""
_TO_SOFTMAX = MOVES | QUANTIZERS | ON_SCORES
_FROM_SOFTMAX = MOVES | QUANTIZERS | ON_PROBABILITIES | {"Clip"}


@dataclass(frozen=True, eq=False)
class Attention:
    """The nodes of softmax(q k^T) v.

    Attributes:
        scores: the product q k^T.
        output: the product of probabilities and values.
        between: the nodes from `scores` to `softmax`.
    """

    softmax: ir.Node
    scores: ir.Node
    output: ir.Node
    between: tuple[ir.Node, ...]

    @property
    def operands(self) -> list[ir.Value | None]:
        """Query, key, probabilities and values."""
        return [*self.scores.inputs[:2], *self.output.inputs[:2]]


def attentions(view: View) -> Iterator[Attention]:
    """Yields every attention written as MatMul, Softmax, MatMul."""
    for softmax in view.named("Softmax"):
        scores, between = _scores(view, softmax)
        output = next((n for n in readers(softmax.outputs[0], _FROM_SOFTMAX) if _of_two_tensors(view, n)), None)
        if scores is not None and output is not None:
            yield Attention(softmax, scores, output, between)


def _of_two_tensors(view: View, node: ir.Node) -> bool:
    return node.op_type == "MatMul" and len(node.inputs) == 2 and all(view.of_data(v) for v in node.inputs)


def _scores(view: View, softmax: ir.Node) -> tuple[ir.Node | None, tuple[ir.Node, ...]]:
    """Returns the product that a Softmax normalises and the nodes between the two; (None, ()) without one."""
    stack: list[tuple[ir.Value | None, tuple[ir.Node, ...]]] = [(v, ()) for v in softmax.inputs[:1]]
    seen: set[ir.Node] = set()
    while stack:
        value, path = stack.pop(0)
        node = value.producer() if value is not None and view.of_data(value) else None
        if node is None or node in seen:
            continue
        seen.add(node)
        if _of_two_tensors(view, node):
            return node, path
        if node.op_type in _TO_SOFTMAX:
            stack += [(v, (node, *path)) for v in node.inputs]
    return None, ()


def _partial(view: View) -> Iterator[Hit]:
    for a in attentions(view):
        names = ("query", "key", "probabilities", "value")
        quantized = [view.dequantizer(v) is not None for v in a.operands]
        if any(quantized) and not all(quantized):
            missing = ", ".join(n for n, q in zip(names, quantized, strict=True) if not q)
            yield a.softmax, f"not quantized: {missing}"


def _quantized(view: View, a: Attention, *codes: ir.DataType) -> bool:
    return any(q is not None and q.codes in codes for q in map(view.dequantizer, a.operands))


def _long(view: View) -> Iterator[Hit]:
    for a in attentions(view):
        shape = sizes(a.softmax.outputs[0]) or sizes(a.scores.outputs[0]) or []
        length = max((d for d in shape[-2:] if d is not None), default=0)
        if length > LONGEST_INT8 and _quantized(view, a, ir.DataType.INT8, ir.DataType.UINT8):
            yield a.softmax, f"an INT8 attention over {length} tokens"


def _fp8_heads(view: View) -> Iterator[Hit]:
    for a in attentions(view):
        shape = sizes(a.scores.inputs[0])
        size = shape[-1] if shape else None
        if size is not None and size not in _FP8_HEADS and _quantized(view, a, ir.DataType.FLOAT8E4M3FN):
            yield a.scores, f"an FP8 attention with heads of {size}"


def _late_scale(view: View) -> Iterator[Hit]:
    for a in attentions(view):
        scale = next((n for n in a.between if n.op_type in SCALES and _by_scalar(view, n)), None)
        if scale is not None:
            yield scale, f"scales the product {a.scores.name!r}"


def _by_scalar(view: View, node: ir.Node) -> bool:
    return any(view.scalar(v) is not None for v in node.inputs)


def _quantized_scores(view: View) -> Iterator[Hit]:
    for a in attentions(view):
        quantizer = next((n for n in a.between if n.op_type == "QuantizeLinear"), None)
        if quantizer is not None:
            yield quantizer, f"stands between {a.scores.name!r} and its Softmax"


RULES = (
    Rule("TRT401", "warning", TENSORRT, "Only some operands of an attention are quantized",
         "The INT8 attention kernel takes query, key, probabilities and values in int8; a mixture splits the fusion "
         "(NVIDIA/TensorRT issues 2905, 4397, 4516).",
         "Quantize all four operands, or none.",
         "documentation", _partial),
    Rule("TRT402", "warning", TENSORRT, f"A quantized attention over more than {LONGEST_INT8} tokens",
         "TensorRT has no fused INT8 attention for it; the two products and the Softmax run one by one.",
         "Leave the attention products in floating point.",
         "documentation", _long),
    Rule("TRT403", "warning", TENSORRT, "The attention scale follows the first product",
         "The fused attention wants it on query or key; FP16 scores may overflow before they are scaled.",
         "Multiply the query by the scale before the product.",
         "documentation", _late_scale),
    Rule("TRT404", "warning", TENSORRT, "Q/DQ between the first attention product and the Softmax",
         "Scores stay inside the fused kernel; a pair there splits it.",
         "Quantize the operands of the products, not the scores.",
         "documentation", _quantized_scores),
    Rule("TRT405", "warning", TENSORRT, "An FP8 attention whose heads are smaller than 9 or larger than 256",
         "TensorRT's fused FP8 attention takes no other sizes.",
         "Leave the attention products in floating point.",
         "documentation", _fp8_heads),
)  # fmt: skip
