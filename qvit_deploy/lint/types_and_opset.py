"""Rules on tensor types and on the operator set a file declares."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.lint.finding import EVERYWHERE, TENSORRT, Hit, Rule
from qvit_deploy.lint.view import FLOATS, Quantizer, View, integer

_T = ir.DataType
_CODES_SINCE = {
    _T.FLOAT8E4M3FN: 19, _T.FLOAT8E5M2: 19, _T.FLOAT8E4M3FNUZ: 19, _T.FLOAT8E5M2FNUZ: 19, _T.INT4: 21, _T.UINT4: 21,
    _T.INT16: 21, _T.UINT16: 21, _T.FLOAT4E2M1: 23, _T.INT2: 25, _T.UINT2: 25,
}  # fmt: skip
_ONE_TYPE = {
    "Add": 2, "Sub": 2, "Mul": 2, "Div": 2, "MatMul": 2, "Gemm": 3, "Conv": 3, "Concat": 1 << 30, "Max": 1 << 30,
    "Min": 1 << 30, "Sum": 1 << 30, "LayerNormalization": 1, "Equal": 2, "Greater": 2, "Less": 2,
}  # fmt: skip
"""By operator, how many of its first inputs must be of one type."""
_OLDEST_OPSET = 7
_FLOAT16_MAX = 65504.0


def _needs(q: Quantizer) -> Iterator[tuple[int, str]]:
    """Yields (opset, feature) for everything the quantizer uses."""
    if q.codes in _CODES_SINCE and q.codes is not None:
        yield _CODES_SINCE[q.codes], f"{q.codes.name.lower()} codes"
    scale = q.node.inputs[1].dtype if len(q.node.inputs) > 1 and q.node.inputs[1] is not None else None
    if scale in (_T.FLOAT16, _T.BFLOAT16) and scale is not None:
        yield 19, f"{scale.name.lower()} scales"
    if q.block_size:
        yield 21, "blocks"
    if not q.per_tensor:
        yield 13, "a scale per channel"


def _opset_of_quantizers(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        opset, feature = max(_needs(q), default=(0, ""))
        if q.node.domain in ("", "ai.onnx") and opset > view.opset:
            yield q.node, f"{feature} need opset {opset}, the file declares {view.opset}"


def _opset_of_operators(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.domain in ("", "ai.onnx") and view.opset and not _exists(node.op_type, view.opset):
            since = min((s.since_version for s in _schemas(node.op_type)), default=None)
            yield node, (
                f"{node.op_type} is no ONNX operator" if since is None
                else f"{node.op_type} came with opset {since}, the file declares {view.opset}"
            )  # fmt: skip


def _exists(op_type: str, opset: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, opset, "").deprecated
    except onnx.defs.SchemaError:
        return False


def _schemas(op_type: str) -> list[onnx.defs.OpSchema]:
    return [onnx.defs.get_schema(op_type, "")] if onnx.defs.has(op_type) else []


def _mixed(view: View) -> Iterator[Hit]:
    for node in view.named(*_ONE_TYPE):
        types = dict.fromkeys(
            v.dtype for v in node.inputs[: _ONE_TYPE[node.op_type]] if v is not None and v.dtype in FLOATS
        )
        if len(types) > 1:
            yield node, f"operands are {' and '.join(t.name.lower() for t in types if t is not None)}"


def _not_finite(view: View) -> Iterator[Hit]:
    for name, array in _float_constants(view):
        nans, infinite = int(np.isnan(array).sum()), int(np.isposinf(array).sum())
        if nans or infinite:
            yield name, f"{nans} NaN and {infinite} infinite of {array.size} values"


def _float_constants(view: View) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (name, array) of the float constants except scales, which have a rule of their own."""
    scales = {q.node.inputs[1] for q in view.quantizers if len(q.node.inputs) > 1}
    values = [v for n in view.nodes for v in n.inputs if v is not None and v.dtype in FLOATS and v not in scales]
    for value in dict.fromkeys(values):
        array = view.constant(value)
        if array is not None:
            yield value.name or "", array if array.dtype.kind == "f" else array.astype(np.float32)


def _overflowing_cast(view: View) -> Iterator[Hit]:
    for node in view.named("Cast"):
        if integer(node, "to", 0) != _T.FLOAT16.value or not node.inputs:
            continue
        array = view.constant(node.inputs[0])
        if array is None or array.dtype.kind not in "fiu" or not array.size:
            continue
        finite = np.abs(array[np.isfinite(array)].astype(np.float64))
        if finite.size and finite.max() > _FLOAT16_MAX:
            yield node, f"a constant of {finite.max():.3g} becomes float16, whose largest number is 65504"


def _old_opset(view: View) -> Iterator[Hit]:
    if 0 < view.opset < _OLDEST_OPSET:
        yield "", f"the file declares opset {view.opset}"


def _double(view: View) -> Iterator[Hit]:
    for node, value in _values(view):
        if value.dtype == _T.DOUBLE:
            yield node, f"{value.name!r} is float64"


def _uint8_inputs(view: View) -> Iterator[Hit]:
    pixels = {value for value in view.model.graph.inputs if value.dtype == _T.UINT8 and value.const_value is None}
    for node in view.nodes:
        read = next((value for value in node.inputs if value in pixels), None)
        if read is not None and node.op_type != "Cast":
            yield node, f"reads the uint8 input {read.name!r}"


def _no_type(view: View) -> Iterator[Hit]:
    for node, value in _values(view):
        if value.dtype in (_T.STRING, _T.COMPLEX64, _T.COMPLEX128) and value.dtype is not None:
            yield node, f"{value.name!r} is {value.dtype.name.lower()}"


def _values(view: View) -> Iterator[tuple[ir.Node | str, ir.Value]]:
    """Yields every value once, after the node that computes it, or its own name."""
    seen = set()
    graph = view.model.graph
    for value in (*graph.inputs, *graph.initializers.values()):
        if value not in seen:
            seen.add(value)
            yield value.name or "", value
    for node in view.nodes:
        for value in node.outputs:
            yield node, value


def _float32_products(view: View) -> Iterator[Hit]:
    float32 = [p.node for p in view.products if p.node.outputs and p.node.outputs[0].dtype == _T.FLOAT]
    if float32:
        yield (
            "",
            f"{len(float32)} of {len(view.products)} matrix products have float32 operands outside their Q/DQ pairs",
        )


RULES = (
    Rule("ONNX301", "error", EVERYWHERE, "The opset is too low for the types of a quantizer",
         "The file is not valid ONNX: ONNX Runtime refuses it, other parsers may read it in their own way.",
         "Export with opset 21: float16 scales need 19, int4, int16 and blocks 21.",
         "measured", _opset_of_quantizers),
    Rule("ONNX302", "error", EVERYWHERE, "An operator that the declared opset does not have",
         "The file is not valid ONNX: ONNX Runtime refuses it, other parsers may read it in their own way.",
         "Raise the opset (LayerNormalization needs 17, Gelu 20), or write the operator out.",
         "measured", _opset_of_operators),
    Rule("ONNX303", "error", EVERYWHERE, "Operands of different floating point types",
         "Neither ONNX nor a strongly typed TensorRT network converts by itself; both refuse the file.",
         "Put a Cast in front of one operand.",
         "parser", _mixed),
    Rule("ONNX304", "error", EVERYWHERE, "A constant holds NaN or +infinity",
         "It reaches the output: usually a value that overflowed in a conversion to float16. -infinity, as in masks, "
         "is let pass. Parsers take it without a word.",
         "Keep that constant, and what it meets, in float32.",
         "documentation", _not_finite),
    Rule("TRT301", "warning", TENSORRT, "The opset is below 7",
         "TensorRT's parser says that such models are not guaranteed to work.",
         "Export with opset 21.",
         "parser", _old_opset),
    Rule("TRT302", "warning", TENSORRT, "A constant overflows when it is cast to float16",
         "The engine computes with infinity.",
         "Keep it in float32, or clip it to 65504 (a mask of -1e9 to -6e4).",
         "documentation", _overflowing_cast),
    Rule("TRT303", "warning", TENSORRT, "A float64 tensor",
         "TensorRT has no float64 and computes in float32.",
         "Export in float32.",
         "documentation", _double),
    Rule("TRT304", "error", TENSORRT, "A tensor of strings or complex numbers",
         "TensorRT has no such type; its parser refuses the file.",
         "Leave pre- and postprocessing out of the model.",
         "parser", _no_type),
    Rule("TRT305", "note", TENSORRT, "Products around the Q/DQ pairs are float32",
         "TensorRT 11 runs the types that the file says (--fp16 is gone): no FP16 kernel will be used.",
         "Emit the float16 body in the ONNX file itself, with float16 scales.",
         "documentation", _float32_products),
    Rule("TRT306", "error", TENSORRT, "A uint8 input is read by something else than a Cast",
         "TensorRT takes uint8 at the network's inputs only, to cast it; its parser refuses the file.",
         "Put the Cast first, the Transpose or the arithmetic behind it.",
         "parser", _uint8_inputs),
)  # fmt: skip
