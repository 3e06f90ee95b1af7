"""Rules on where Q/DQ pairs stand: on the inputs of matrix products, and nowhere else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import onnx_ir as ir

from qvit_deploy.graph.op_traits import DESCRIBES, FLOAT_ONLY, MATRIX_PRODUCTS, MOVES, PRODUCTS
from qvit_deploy.graph.sites import SMALLEST_REDUCTION
from qvit_deploy.lint.finding import TENSORRT, Hit, Rule
from qvit_deploy.lint.view import Product, Quantizer, View, before, integer, readers, sizes

_KEEPS_CODES = MOVES | {"Clip", "MaxPool"}
_WEIGHT_ONLY = frozenset({ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.FLOAT4E2M1})
"""Types that exist for weight-only quantization."""


def _residual(view: View) -> Iterator[Hit]:
    for node in view.named("Add"):
        if len(node.inputs) == 2 and all(view.of_data(v) for v in node.inputs):
            count = sum(view.dequantizer(v) is not None for v in node.inputs)
            if count:
                yield node, f"{count} of 2 summands are quantized"


def _product_output(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.node.op_type != "QuantizeLinear" or not q.of_data:
            continue
        source = _through_bias(view, before(q.value, frozenset()))
        if source is None or source.op_type not in PRODUCTS:
            continue
        following = _after_pair(q)
        if following and not any(n.op_type in PRODUCTS for n in following):
            names = ", ".join(dict.fromkeys(n.op_type for n in following))
            yield q.node, f"output of {source.name or source.op_type!r} is quantized for {names}"


def _through_bias(view: View, node: ir.Node | None) -> ir.Node | None:
    """Returns the producer of what an Add adds a constant to, or the node itself when it is no such Add."""
    if node is not None and node.op_type == "Add" and len(node.inputs) == 2:
        of_data = [v for v in node.inputs if view.of_data(v)]
        if len(of_data) == 1 and of_data[0] is not None:
            return of_data[0].producer()
    return node


def _after_pair(q: Quantizer) -> list[ir.Node]:
    """Returns the nodes that read the dequantized values of a quantizer, behind layout changes."""
    dequantizers = [n for n in readers(q.node.outputs[0], _KEEPS_CODES) if n.op_type == "DequantizeLinear"]
    return [n for d in dequantizers for n in readers(d.outputs[0], MOVES) if n.op_type not in DESCRIBES]


def _no_dequantize(view: View) -> Iterator[Hit]:
    for q in view.quantizers:
        if q.node.op_type != "QuantizeLinear":
            continue
        others = [n.op_type for n in readers(q.node.outputs[0], _KEEPS_CODES) if n.op_type != "DequantizeLinear"]
        if q.node.outputs[0].is_graph_output():
            others.append("a model output")
        if others:
            yield q.node, f"integer codes go to {', '.join(dict.fromkeys(others))}"


def _no_quantize(view: View) -> Iterator[Hit]:
    for d in view.quantizers:
        if d.node.op_type != "DequantizeLinear" or not d.of_data:
            continue
        source = before(d.value, _KEEPS_CODES)
        if source is None or source.op_type != "QuantizeLinear":
            yield d.node, f"codes come from {'a model input' if source is None else source.op_type}"


def _cannot_fuse(view: View) -> Iterator[Hit]:
    for d in view.quantizers:
        if d.node.op_type != "DequantizeLinear" or not d.of_data:
            continue
        following = readers(d.node.outputs[0], MOVES)
        floats = [n.op_type for n in following if n.op_type in FLOAT_ONLY]
        if floats:
            yield d.node, f"dequantized for {', '.join(dict.fromkeys(floats))}, which runs in floating point"


def _several_pairs(view: View) -> Iterator[Hit]:
    by_source: dict[ir.Value, list[Quantizer]] = defaultdict(list)
    for q in view.quantizers:
        if q.node.op_type == "QuantizeLinear" and q.of_data and q.value is not None:
            by_source[q.value].append(q)
    for value, pairs in by_source.items():
        if len(pairs) > 1:
            scales = {s.tobytes() for q in pairs if (s := q.scale) is not None and s.dtype != object}
            kind = "one scale" if len(scales) == 1 else f"{len(scales)} different scales"
            yield pairs[0].node, f"{value.name!r} is quantized {len(pairs)} times with {kind}"


def _small_product(view: View) -> Iterator[Hit]:
    for product in view.products:
        if product.node.op_type not in MATRIX_PRODUCTS or product.quantized < 2:
            continue
        k, n = _extent(product)
        small = [f"{axis} = {size}" for axis, size in (("K", k), ("N", n)) if size and size < SMALLEST_REDUCTION]
        if small:
            yield product.node, f"quantized with {' and '.join(small)}"


def _extent(product: Product) -> tuple[int | None, int | None]:
    """Returns (K, N), the terms of a sum and the columns of the result; None where shapes are unknown."""
    left, right = (sizes(o.value) for o in product.operands)
    flip_a, flip_b = (product.node.op_type == "Gemm" and integer(product.node, t, 0) for t in ("transA", "transB"))
    rows, columns = (-1, -2) if flip_b else (-2, -1)
    k = right[rows] if right is not None and len(right) > 1 else None
    if k is None and left:
        k = left[-2 if flip_a and len(left) > 1 else -1]
    return k, right[columns] if right is not None and len(right) > 1 else None


def _one_operand(view: View) -> Iterator[Hit]:
    for product in view.products:
        if product.quantized != 1 or len(product.operands) < 2:
            continue
        (quantizer,) = (o.quantizer for o in product.operands if o.quantizer is not None)
        if quantizer.codes in _WEIGHT_ONLY or all(o.of_data for o in product.operands):
            continue  # attention products are the business of the attention rules
        yield product.node, f"only the {'activation' if quantizer.of_data else 'weight'} is quantized"


RULES = (
    Rule("TRT201", "warning", TENSORRT, "Q/DQ on a residual addition",
         "The residual stream of a ViT holds values around 1000; one int8 scale for it took ViT-B/16 from 85 % "
         "to below 5 % top-1.",
         "Take the pairs off the summands (op_types_to_quantize=['MatMul', 'Gemm', 'Conv'], or nodes_to_exclude).",
         "documentation", _residual),
    Rule("TRT202", "warning", TENSORRT, "Q/DQ on the output of a matrix product",
         "Outputs stay in floating point unless the next reader is a product: the pair costs accuracy and a kernel.",
         "Put pairs on the inputs of products only.",
         "documentation", _product_output),
    Rule("TRT203", "warning", TENSORRT, "Integer codes are read by something else than DequantizeLinear",
         "TensorRT fuses pairs; a lone QuantizeLinear stays a kernel of its own.",
         "Let DequantizeLinear follow every QuantizeLinear.",
         "documentation", _no_dequantize),
    Rule("TRT204", "warning", TENSORRT, "DequantizeLinear of an activation that no QuantizeLinear made",
         "There is no pair to fuse; the values are dequantized in a kernel of its own.",
         "Quantize inside the model, from a float input.",
         "documentation", _no_quantize),
    Rule("TRT205", "warning", TENSORRT, "Dequantized values are read by an operator that runs in floating point",
         "The pair only rounds: nothing becomes faster, and it often breaks a fusion.",
         "Restrict quantization to MatMul, Gemm and Conv.",
         "documentation", _cannot_fuse),
    Rule("TRT206", "warning", TENSORRT, "A tensor is quantized several times",
         "TensorRT wants one pair that all readers share (query, key and value behind one LayerNorm); several are "
         "several kernels, and different scales keep the products apart.",
         "Use one QuantizeLinear and one DequantizeLinear for all readers.",
         "documentation", _several_pairs),
    Rule("TRT207", "warning", TENSORRT, "A quantized product is narrower than 16",
         "No integer kernel takes K < 16 or N < 16; the pairs only round.",
         "Leave such products in floating point.",
         "documentation", _small_product),
    Rule("TRT208", "warning", TENSORRT, "Only one operand of a product is quantized",
         "INT8 kernels need both operands in int8; the product runs in floating point.",
         "Quantize the other operand too, or take the pair away. Weight-only quantization is for INT4.",
         "documentation", _one_operand),
)  # fmt: skip
