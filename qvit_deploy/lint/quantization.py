"""Rules on the parameters of QuantizeLinear and DequantizeLinear: containers, scales and zero points."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qvit_deploy.lint.finding import EVERYWHERE, TENSORRT, Hit, Rule
from qvit_deploy.lint.view import FLOATS, Product, Quantizer, View, integer

_INT4 = (ir.DataType.INT4, ir.DataType.UINT4)
_NOT_IMPORTED = frozenset(
    {
        ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2,
        ir.DataType.UINT32, ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E4M3FNUZ, ir.DataType.FLOAT8E5M2FNUZ,
    }
)  # fmt: skip


def _scale_not_positive(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.scale is not None and not bool(np.all(_as_float64(q.scale) > 0)):
            bad = int((~(_as_float64(q.scale) > 0)).sum())
            yield q.node, f"{bad} of {q.scale.size} scales are zero, negative or NaN"


def _scale_infinite(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.scale is not None and bool(np.isinf(_as_float64(q.scale)).any()):
            yield q.node, "the scale is infinite: every code is 0"


def _scale_denormal(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.scale is None or q.node.inputs[1] is None:
            continue
        smallest = 2.0**-14 if q.node.inputs[1].dtype == ir.DataType.FLOAT16 else float(np.finfo(np.float32).tiny)
        scale = _as_float64(q.scale)
        if bool(((scale > 0) & (scale < smallest)).any()):
            yield q.node, f"scale {scale[scale > 0].min():.1e} is below the smallest normal number {smallest:.1e}"


def _pair_disagrees(view: View) -> Iterator[Hit]:
    for d in view.quantizers:
        source = d.value.producer() if d.node.op_type == "DequantizeLinear" and d.value is not None else None
        q = view.quantizer(source)
        if q is None or q.node.op_type != "QuantizeLinear" or q.scale is None or d.scale is None:
            continue
        if not np.array_equal(_as_float64(q.scale).reshape(-1), _as_float64(d.scale).reshape(-1)):
            yield d.node, f"dequantizes with another scale than {_name(q.node)!r} quantized with"


def _zero_point(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.zero_point is not None and bool(np.any(_as_float64(q.zero_point) != 0)):
            low, high = _as_float64(q.zero_point).min(), _as_float64(q.zero_point).max()
            yield q.node, f"zero point {low:g}" + (f" to {high:g}" if high > low else "")


def _unsigned(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.codes == ir.DataType.UINT8 and len(q.node.inputs) > 2 and q.node.inputs[2] is not None:
            yield q.node, f"uint8 codes of {'an activation' if q.of_data else 'a weight'}"


def _no_zero_point(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        absent = len(q.node.inputs) < 3 or q.node.inputs[2] is None
        if q.node.op_type == "QuantizeLinear" and absent and q.codes == ir.DataType.UINT8:
            yield q.node, "no zero point and no output_dtype: uint8 by the standard, int8 to TensorRT"


def _container(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.codes in _NOT_IMPORTED and q.codes is not None:
            yield q.node, f"codes are {q.codes.name.lower()}"


def _bias(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.node.op_type == "DequantizeLinear" and q.codes == ir.DataType.INT32:
            yield q.node, f"int32 codes ({'a bias' if not q.of_data else 'of an activation'})"


def _int4_activation(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.node.op_type == "QuantizeLinear" and q.of_data and q.codes == ir.DataType.INT4:
            yield q.node, "an activation with int4 codes"


def _per_channel_activation(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if _quantizes_activation(q) and not q.per_tensor and not q.block_size:
            yield q.node, f"an activation with {0 if q.scale is None else q.scale.size} scales along axis {q.axis}"


def _block_activation(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if _quantizes_activation(q) and q.block_size and q.codes in (ir.DataType.INT8, *_INT4):
            yield q.node, f"an activation with one scale per {q.block_size} elements"


def _scale_type(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        scale = q.node.inputs[1].dtype if len(q.node.inputs) > 1 and q.node.inputs[1] is not None else None
        tensor = q.value.dtype if q.node.op_type == "QuantizeLinear" and q.value is not None else None
        if scale in FLOATS and tensor in FLOATS and scale != tensor and scale is not None and tensor is not None:
            yield q.node, f"a {scale.name.lower()} scale on a {tensor.name.lower()} tensor"


def _computed_zero_point(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if len(q.node.inputs) > 2 and view.of_data(q.node.inputs[2]):
            yield q.node, "the zero point is computed at run time"


def _computed_scale(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if len(q.node.inputs) > 1 and view.of_data(q.node.inputs[1]):
            yield q.node, "the scale is computed at run time"


def _weight_axis(view: View) -> Iterator[Hit]:
    for product in view.products:
        if len(product.operands) < 2 or product.operands[1].of_data:
            continue
        weight, expected = product.operands[1], _output_axis(product)
        q = weight.quantizer
        if q is None or weight.value is None or weight.value.producer() is not q.node or q.per_tensor or q.block_size:
            continue
        rank = len(weight.value.shape) if weight.value.shape is not None else 2
        if q.axis % rank != expected % rank:
            yield q.node, f"weight of {_name(product.node)!r} has its scales along axis {q.axis}, not {expected}"


def _output_axis(product: Product) -> int:
    """Returns the axis of a product's weight that counts its outputs."""
    if product.node.op_type == "Gemm":
        return 0 if integer(product.node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(product.node.op_type, -1)


def _quantizes_activation(q: Quantizer) -> bool:
    return q.node.op_type == "QuantizeLinear" and q.of_data


def _as_float64(array: np.ndarray) -> np.ndarray:
    """Converts to float64: numpy cannot compare the small types."""
    return array.astype(np.float64)


def _name(node: ir.Node) -> str:
    return node.name or node.op_type


RULES = (
    Rule("ONNX101", "error", EVERYWHERE, "A scale is zero, negative or NaN",
         "TensorRT refuses the file; everywhere else the quantizer divides by it.",
         "Floor scales at the smallest normal number; drop channels that are all zero.",
         "parser", _scale_not_positive),
    Rule("ONNX102", "error", EVERYWHERE, "A scale is infinite",
         "Every code becomes 0 and every value 0 x infinity. TensorRT's parser takes it without a word.",
         "Calibrate again: a range was not finite, or overflowed when scales were cast to float16.",
         "measured", _scale_infinite),
    Rule("ONNX103", "warning", EVERYWHERE, "A scale is denormal in its own type",
         "Few bits of it are left, and devices that flush denormals divide by 0. Parsers take it.",
         "Floor scales at the smallest normal number, or keep them in float32.",
         "documentation", _scale_denormal),
    Rule("ONNX104", "warning", EVERYWHERE, "Q and DQ of one pair have different scales",
         "The pair rescales instead of only rounding; runtimes that fuse a pair use one scale.",
         "Give both the same scale and multiply explicitly where that is meant.",
         "documentation", _pair_disagrees),
    Rule("TRT101", "error", TENSORRT, "A zero point is not 0",
         "TensorRT quantizes symmetrically only; its parser refuses the file.",
         "Quantize symmetrically (ONNX Runtime: ActivationSymmetric, WeightSymmetric), or fold the shift into "
         "LayerNorm's beta and the next bias.",
         "parser", _zero_point),
    Rule("TRT102", "error", TENSORRT, "Codes are uint8",
         "Weights are refused. Activations are read as int8 with one warning: everything above code 127 is clamped.",
         "Use int8 codes with zero point 0 (QInt8 in ONNX Runtime's quantize_static).",
         "parser", _unsigned),
    Rule("TRT103", "error", TENSORRT, "QuantizeLinear without a zero point",
         "The standard makes the codes uint8, TensorRT int8, without a warning: the two compute different numbers.",
         "Add an int8 zero point of 0.",
         "parser", _no_zero_point),
    Rule("TRT104", "error", TENSORRT, "A container TensorRT cannot import",
         "Only int8, int4, FP8 E4M3 and FP4 E2M1 are quantized types.",
         "Use int8 containers; 5 to 7 bits are int8 with a Clip before QuantizeLinear.",
         "parser", _container),
    Rule("TRT105", "error", TENSORRT, "DequantizeLinear of int32 codes",
         "ONNX Runtime quantizes biases to int32; TensorRT's parser refuses them.",
         "Leave biases in float (QuantizeBias: False in extra_options of quantize_static).",
         "parser", _bias),
    Rule("TRT106", "warning", TENSORRT, "An activation has int4 codes",
         "INT4 is documented as weight-only: parsed and built, but without an INT4 x INT4 kernel.",
         "Use an int8 container for activations, or a plugin.",
         "documentation", _int4_activation),
    Rule("TRT107", "error", TENSORRT, "An activation has a scale per channel",
         "IQuantizeLayer does not allow it; TensorRT-RTX builds it, but no integer kernel can use it.",
         "Use one scale per tensor; move differences between channels into LayerNorm's gamma and the weights.",
         "documentation", _per_channel_activation),
    Rule("TRT108", "warning", TENSORRT, "An activation has a scale per block",
         "Blocks are for weights and FP4; int8 blocks are dequantized before the product.",
         "Use one scale per tensor.",
         "documentation", _block_activation),
    Rule("TRT109", "warning", TENSORRT, "Scale and tensor differ in type",
         "A strongly typed network wants the scale in the type of what it quantizes; TensorRT-RTX 1.7 takes others.",
         "Cast the scales to the tensor's type (float16 scales need opset 19).",
         "documentation", _scale_type),
    Rule("TRT110", "error", TENSORRT, "A zero point is computed at run time",
         "It must be a build-time constant: the file parses and the engine build fails.",
         "Calibrate statically; make the zero point an initializer.",
         "parser", _computed_zero_point),
    Rule("TRT111", "warning", TENSORRT, "A scale is computed at run time",
         "Integer kernels take constant scales; the product runs in floating point.",
         "Calibrate statically; make the scale an initializer.",
         "documentation", _computed_scale),
    Rule("TRT112", "warning", TENSORRT, "Scales of a weight do not run along its outputs",
         "INT8 weights are per output channel; others are dequantized first (the engine grows with them).",
         "Quantize MatMul weights [in, out] along axis 1, convolutions along axis 0.",
         "documentation", _weight_axis),
)  # fmt: skip
