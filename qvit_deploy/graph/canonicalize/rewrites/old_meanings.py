"""What operators meant in old opsets, where onnx's version converter does not say so.

Rules of `before_conversion`:
1. Hardmax before opset 13 looks at all axes from its `axis` on as one: Flatten, Hardmax, Reshape.
Rules of `after_conversion`:
2. Upsample and the Resize of opset 10 scale without an offset of half a pixel ("asymmetric"); the nearest element is
   that in front where they enlarge and that behind where they shrink (ONNX Runtime). `roi` is dropped;
3. tf_half_pixel_for_nn (opset 11 and 12) rounded down is half_pixel rounded to the nearest, halves up;
4. GroupNormalization before opset 21 has scale and bias per group: they are repeated for the channels, whose number is
   read from the tensor's shape (`batch.specialise` computes it).
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import UnsupportedOpError
from qvit_deploy.graph.canonicalize.rewrites.fused_call import Call
from qvit_deploy.graph.graph import constant

_AXES_OF_SOFTMAX, _COORDINATES_OF_RESIZE, _CHANNELS_OF_GROUPS = 13, 11, 21
"""The opsets from which on the operators mean what they mean now."""


def before_conversion(model: ir.Model, version: int) -> None:
    """Applies rule 1 in place to a model of opset `version`."""
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Hardmax" and version < _AXES_OF_SOFTMAX:
            call = Call(node)
            flat = call.op("Flatten", call.input(0), axis=call.attr("axis", 1))
            hot = call.op("Hardmax", flat, axis=1)
            shape = call.op("Shape", call.input(0))
            call.put(call.op("Reshape", hot, shape))


def after_conversion(model: ir.Model, version: int) -> None:
    """Applies the other rules in place to a model of opset 21 that was one of opset `version`. Raises
    UnsupportedOpError for a Resize of which no opset says what it means."""
    for node in list(model.graph.all_nodes()):
        if node.op_type == "Resize" and version < _COORDINATES_OF_RESIZE:
            _without_offset(node)
        elif node.op_type == "Resize" and _text(node, "coordinate_transformation_mode") == "tf_half_pixel_for_nn":
            if _text(node, "nearest_mode") == "floor":
                _set(node, coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil")
        elif node.op_type == "GroupNormalization" and version < _CHANNELS_OF_GROUPS:
            _give_channels_their_group(node)


def _without_offset(node: ir.Node) -> None:
    """Applies rule 2."""
    scales = constant(node.inputs[2])
    if scales is not None and (scales < 1).any() and (scales > 1).any() and _text(node, "mode") in ("", "nearest"):
        raise UnsupportedOpError(
            "Resize", node.name or "", "it enlarges one axis and shrinks another; export it with opset 11 or newer"
        )
    shrinks = scales is not None and bool((scales < 1).any())
    _set(node, coordinate_transformation_mode="asymmetric", nearest_mode="ceil" if shrinks else "floor")
    node.replace_input_with(1, None)


def _give_channels_their_group(node: ir.Node) -> None:
    """Applies rule 4."""
    call = Call(node)
    groups = call.ints(call.attr("num_groups", None))
    channels = call.op("Shape", call.input(0), start=1, end=2)
    shape = call.op("Concat", groups, call.op("Div", channels, groups), axis=0)
    for index in (1, 2):
        column = call.op("Unsqueeze", call.input(index), call.ints(1))
        node.replace_input_with(index, call.op("Reshape", call.op("Expand", column, shape), call.ints(-1)))


def _text(node: ir.Node, name: str) -> str:
    return node.attributes.get_string(name, "")


def _set(node: ir.Node, **attributes: str) -> None:
    for name, value in attributes.items():
        node.attributes[name] = ir.AttrString(name, value)
