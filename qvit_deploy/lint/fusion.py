"""Rules on what ONNX Runtime's CPU provider does not turn into integer products.

All of them were measured with `targets.onnxruntime.runtime`, which opens a session and counts the integer products of
one graph. These rules say why a product is none, and need no session.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import onnx_ir as ir

from qvit_deploy.graph.op_traits import MATRIX_PRODUCTS
from qvit_deploy.lint.finding import ONNXRUNTIME, Hit, Rule
from qvit_deploy.lint.view import Product, Quantizer, View, integer, readers, sizes

_MOVED_ACROSS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "MaxPool"})
"""Operators that ONNX Runtime moves quantizers across."""
_NOT_MOVED_ACROSS = frozenset({"Concat", "Flatten", "Gather", "Split"})
"""Layout changes that it leaves between a quantizer and its product."""
_OUTPUT_DTYPE_SINCE = 21
_EIGHT_BITS = (ir.DataType.INT8, ir.DataType.UINT8)


def _pair_before_layout(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if not _signed_activation(view, q) or q.node.op_type != "DequantizeLinear":
            continue
        movers = [n.op_type for n in readers(q.node.outputs[0]) if n.op_type in _MOVED_ACROSS and not _requantized(n)]
        if movers:
            yield q.node, f"an int8 pair in front of {', '.join(dict.fromkeys(movers))}"


def _requantized(node: ir.Node) -> bool:
    """Returns whether the result is quantized again: then it has its pair, and ONNX Runtime moves none behind it."""
    return any(n.op_type == "QuantizeLinear" for n in readers(node.outputs[0]))


def _signed_activation(view: View, q: Quantizer | None) -> bool:
    """Returns whether an activation has int8 codes with one scale and a zero point, at opset 21 or later.

    ONNX Runtime gives such a quantizer an output_dtype when it moves it, and contradicts it when it makes the zero
    point uint8.
    """
    signed = q is not None and q.of_data and q.codes == ir.DataType.INT8 and view.opset >= _OUTPUT_DTYPE_SINCE
    return signed and q is not None and q.per_tensor and len(q.node.inputs) > 2


def _becomes_gemm(product: Product) -> bool:
    """Returns whether ONNX Runtime makes a Gemm of a MatMul and its bias before anything looks for Q/DQ pairs."""
    node = product.node
    if node.op_type != "MatMul" or len(product.operands) < 2 or product.operands[1].of_data:
        return False
    added = [n for n in readers(node.outputs[0]) if n.op_type == "Add" and len(n.inputs) == 2]
    vectors = [v for n in added for v in n.inputs if v is not node.outputs[0] and len(sizes(v) or []) == 1]
    shape = sizes(node.outputs[0])
    return bool(vectors) and shape is not None and (len(shape) == 2 or None not in shape)


def _refused_gemm(view: View) -> Iterator[Hit]:
    for product in _quantized_products(view):
        batched = len(sizes(product.node.outputs[0]) or []) > 2
        if batched and _becomes_gemm(product) and _signed_activation(view, product.operands[0].quantizer):
            yield product.node, "all sizes are fixed and the bias is a vector"


def _float_gemm(view: View) -> Iterator[Hit]:
    for product in _quantized_products(view):
        node = product.node
        if any(n.op_type == "QuantizeLinear" for n in readers(node.outputs[0])):
            continue
        biased = node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None
        if biased or _becomes_gemm(product):
            yield node, "a Gemm with a bias" if biased else "a MatMul and a vector that become a Gemm"


def _quantized_products(view: View) -> Iterator[Product]:
    return (p for p in view.products if p.node.op_type in MATRIX_PRODUCTS and p.quantized == 2)


def _shared(view: View) -> Iterator[Hit]:
    pairs: dict[tuple[ir.Value | None, ir.Value | None], list[Product]] = defaultdict(list)
    for product in _quantized_products(view):
        for operand in product.operands:
            q = operand.quantizer
            if q is not None and q.of_data and q.codes == ir.DataType.INT8:
                source = q.value.producer() if q.value is not None else None
                tensor = source.inputs[0] if source is not None and source.inputs else q.value
                pairs[tensor, q.node.inputs[1]].append(product)
    for (tensor, _), products in pairs.items():
        if len(products) > 1 and tensor is not None:
            yield products[0].node, f"{len(products)} products read {tensor.name!r} through one int8 pair"


def _per_channel(view: View) -> Iterator[Hit]:
    for product in _quantized_products(view):
        for q in _activations(product):
            if not q.per_tensor:
                yield product.node, f"the activation has {0 if q.scale is None else q.scale.size} scales"


def _activations(product: Product) -> list[Quantizer]:
    return [o.quantizer for o in product.operands if o.of_data and o.quantizer is not None]


def _one_operand(view: View) -> Iterator[Hit]:
    for product in view.products:
        if product.node.op_type in MATRIX_PRODUCTS and product.quantized == 1 and len(product.operands) > 1:
            (q,) = (o.quantizer for o in product.operands if o.quantizer is not None)
            yield product.node, f"only the {'activation' if q.of_data else 'weight'} is quantized"


def _not_eight_bits(view: View) -> Iterator[Hit]:
    for product in _quantized_products(view):
        others = [q.codes for o in product.operands if (q := o.quantizer) is not None and q.codes not in _EIGHT_BITS]
        if others:
            yield product.node, f"codes are {' and '.join(c.name.lower() if c is not None else '?' for c in others)}"


def _half(view: View) -> Iterator[Hit]:
    for product in _quantized_products(view):
        if product.node.outputs[0].dtype == ir.DataType.FLOAT16:
            yield product.node, "dequantized to float16"


def _clipped_codes(view: View) -> Iterator[Hit]:
    for product in _quantized_products(view):
        for q in _activations(product):
            source = q.value.producer() if q.value is not None else None
            if source is not None and source.op_type == "Clip":
                yield product.node, f"{source.name!r} clips the codes"


def _convolution(view: View) -> Iterator[Hit]:
    for product in view.products:
        if product.node.op_type == "Conv" and product.quantized == 2:
            following = readers(product.node.outputs[0], frozenset({"Relu", "Clip"}))
            if not any(n.op_type == "QuantizeLinear" for n in following):
                yield product.node, "its output is not quantized"


def _behind_layout(view: View) -> Iterator[Hit]:
    for product in _quantized_products(view):
        for operand in product.operands:
            node = operand.value.producer() if operand.value is not None and operand.of_data else None
            if node is not None and node.op_type in _NOT_MOVED_ACROSS:
                yield product.node, f"{node.op_type} stands between the pair and the product"


def _twice_typed(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        typed = q.node.op_type == "QuantizeLinear" and integer(q.node, "output_dtype", 0) == ir.DataType.INT8.value
        if typed and _signed_activation(view, q):
            yield q.node, "output_dtype and zero point both say int8"


def _untyped(view: View) -> Iterator[Hit]:
    for product in _quantized_products(view):
        for q in _activations(product):
            if q.codes == ir.DataType.INT8 and (len(q.node.inputs) < 3 or q.node.inputs[2] is None):
                yield product.node, "an int8 pair without a zero point"


RULES = (
    Rule("ORT201", "error", ONNXRUNTIME, "An int8 pair in front of a layout change, at opset 21 or later",
         "ONNX Runtime 1.32 moves the pair behind it, makes the codes uint8 and refuses the graph it made "
         "(output_dtype INT8 does not match y_zero_point).",
         "Change the layout before QuantizeLinear, declare opset 20, or use uint8 codes.",
         "measured", _pair_before_layout),
    Rule("ORT202", "error", ONNXRUNTIME, "A vector bias on an int8 MatMul of fixed sizes, at opset 21 or later",
         "ONNX Runtime 1.32 makes a Gemm of it, moves the pair across its Reshape and refuses the graph it made.",
         "Give the bias a leading axis of 1 for each axis of the product, or leave the batch free.",
         "measured", _refused_gemm),
    Rule("ORT203", "warning", ONNXRUNTIME, "A Gemm whose output is not quantized",
         "ONNX Runtime has no integer Gemm with a float bias and a float result: it dequantizes both operands.",
         "Write MatMul + Add on at least three axes (Unsqueeze rows), with a free batch or a bias of full rank.",
         "measured", _float_gemm),
    Rule("ORT204", "warning", ONNXRUNTIME, "An int8 pair with several readers",
         "On x86 codes are made uint8 before the fusion, which passes over shared pairs: the products run in float.",
         "Give every product a pair, with scale and zero point of its own (equal ones are merged).",
         "measured", _shared),
    Rule("ORT205", "warning", ONNXRUNTIME, "A product of an activation with a scale per channel",
         "No integer product takes it; both operands are dequantized.",
         "Use one scale per tensor.",
         "measured", _per_channel),
    Rule("ORT206", "warning", ONNXRUNTIME, "Only one operand of a product is quantized",
         "The product runs in float, or on weights dequantized in blocks.",
         "Quantize the other operand too.",
         "measured", _one_operand),
    Rule("ORT207", "warning", ONNXRUNTIME, "Codes of a product are not 8 bits wide",
         "Integer products take int8 and uint8; others are dequantized.",
         "Use int8 containers.",
         "measured", _not_eight_bits),
    Rule("ORT208", "warning", ONNXRUNTIME, "A quantized product of float16 tensors",
         "The CPU provider has no integer product with a float16 result: it dequantizes and casts.",
         "Emit a float32 body for the CPU.",
         "measured", _half),
    Rule("ORT209", "warning", ONNXRUNTIME, "Integer codes are clipped between Q and DQ",
         "The fusion wants DequantizeLinear right behind QuantizeLinear; the product runs in float.",
         "Clip in floating point, before QuantizeLinear.",
         "measured", _clipped_codes),
    Rule("ORT210", "note", ONNXRUNTIME, "A quantized convolution with a float result",
         "ONNX Runtime fuses convolutions only when their output is quantized as well.",
         "Nothing to do where the convolution is a small part of the model.",
         "measured", _convolution),
    Rule("ORT211", "warning", ONNXRUNTIME, "A layout change between the pair and its product",
         "ONNX Runtime moves pairs across some layout changes, not across this one: the product runs in float.",
         "Change the layout before QuantizeLinear.",
         "measured", _behind_layout),
    Rule("ORT212", "error", ONNXRUNTIME, "An int8 quantizer with output_dtype and a zero point",
         "ONNX Runtime 1.32 makes the zero point uint8, leaves output_dtype and refuses the graph it made.",
         "Leave output_dtype out: the zero point says the type.",
         "measured", _twice_typed),
    Rule("ORT213", "warning", ONNXRUNTIME, "A product of an int8 pair without a zero point",
         "The fusion wants zero points; the product runs in float.",
         "Add an int8 zero point of 0 and leave output_dtype out.",
         "measured", _untyped),
)  # fmt: skip
