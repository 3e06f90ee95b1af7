"""Convolutions that read quantized concatenations, with the quantizer on every part.

OpenVINO 2026.4 moves the quantizer of a concatenation to its parts by itself and then computes another convolution: the
fusion of a MobileViT fell from 41 to 6 dB. Here the parts are quantized alike, so the codes are the same, and
OpenVINO's own are too.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from qvit_deploy.graph.edit import free_node_name, free_value_name
from qvit_deploy.graph.query import producer, scalar

_STEPS = ("Clip", "Add")
"""What stands between a tensor and its quantizer: bounds of narrow codes, the shift of a grid."""


def quantize_parts(graph: ir.Graph) -> list[onnx.NodeProto]:
    """Moves quantizers in front of the Concat they read, where all that reads their codes is convolutions.

    Nodes come out unsorted. Those that nothing reads any more are left for `remove_unused`.

    Returns: the nodes between Concat and quantizer, the Concat included, for whoever compares their results.
    """
    passed: dict[ir.Node, None] = {}
    for quantize in [node for node in graph if node.op_type == "QuantizeLinear"]:
        steps, concat = _behind_concat(quantize)
        if concat is None or not _read_by_convolutions(quantize):
            continue
        passed.update(dict.fromkeys([concat, *steps]))
        codes = [_quantized(graph, part, [*steps, quantize], concat) for part in concat.inputs if part is not None]
        old = quantize.outputs[0]
        joined = ir.node("Concat", codes, concat.attributes, name=free_node_name(graph, f"{quantize.name}.Concat"))
        new = joined.outputs[0]
        new.shape, new.type = old.shape, old.type
        graph.insert_after(quantize, joined)
        ir.convenience.replace_all_uses_with(old, new)
        new.name, old.name = old.name, free_value_name(graph, f"{old.name}.whole")
    return [ir.serde.serialize_node(node) for node in passed]


def _behind_concat(quantize: ir.Node) -> tuple[list[ir.Node], ir.Node | None]:
    """Returns the steps between a Concat and a quantizer with one scale, in order, and the Concat if there is one."""
    steps: list[ir.Node] = []
    value = quantize.inputs[0] if scalar(quantize.inputs[1]) is not None else None
    while (step := producer(value, *_STEPS)) is not None and all(scalar(v) is not None for v in step.inputs[1:]):
        steps.insert(0, step)
        value = step.inputs[0]
    return steps, producer(value, "Concat")


def _read_by_convolutions(quantize: ir.Node) -> bool:
    restored = [use.node for use in quantize.outputs[0].uses()]
    products = [use.node.op_type for node in restored for use in node.outputs[0].uses()]
    return bool(products) and all(n.op_type == "DequantizeLinear" for n in restored) and set(products) == {"Conv"}


def _quantized(graph: ir.Graph, part: ir.Value, steps: list[ir.Node], before: ir.Node) -> ir.Value:
    """Returns a part after copies of `steps`, which are put in front of `before`."""
    for step in steps:
        result = step.outputs[0]
        name = free_node_name(graph, f"{step.name}.part")
        node = ir.node(step.op_type, [part, *step.inputs[1:]], step.attributes, name=name)
        shape, part = part.shape, node.outputs[0]
        part.name, part.shape, part.type = free_value_name(graph, f"{result.name}.part"), shape, result.type
        graph.insert_before(before, node)
    return part
