"""Which nodes of a half-precision graph stay in float32, because range or exact codes demand it.

Nothing is guessed: the magnitudes are those measured on the calibration images (`calibrate.extremes`). A node computes
in float32 if

1. one of its tensors passes `LARGEST` or stays below `SMALLEST` there, or a sum it forms on the way could overflow;
2. one of its constants does not fit float16: too large, or a single number that would become 0;
3. it quantizes with a scale that float16 does not hold exactly, or multiplies weights or activations whose scales
   float16 would distort;
4. it moves, clips or quantizes values that are float32 already (casting them first could change a code), or its
   result is float32 by the ONNX schema or by an attribute of the node; or it normalizes pixels, which are an input as
   exact as one in float32 then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.formats.grids.half import SMALLEST_NORMAL
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph, constant
from qvit_deploy.graph.op_traits import DESCRIBES, MOVES, SUMS, SUMS_OF_SQUARES
from qvit_deploy.graph.pixel_input import normalized_pixels

LARGEST = 3e4
"""Half of what float16 holds: other images may have larger values than those of the calibration."""
SMALLEST = 2.0**-13
"""A tensor whose largest value is smaller is rounded to steps of more than 2^-11 of it: float16 has no steps below
2^-24. Blocks behind a LayerScale that training left near zero have such outputs."""
SCALE_ERROR = 2.0**-10
"""Largest relative error of a scale rounded to float16; it is below 2^-11 except among subnormal numbers."""

FULL, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_KEEP_TYPE = MOVES | {"QuantizeLinear", "Clip"}


def fits_scale(scale: np.ndarray) -> bool:
    """Returns whether float16 holds every scale (float32, any shape) to a relative error of `SCALE_ERROR`."""
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16).astype(np.float32)
    return bool((rounded > 0).all() and (np.abs(rounded - scale) <= SCALE_ERROR * scale).all())


def float32_nodes(graph: Graph, largest: Mapping[str, float], ends: Collection[str]) -> dict[ir.Node, str]:
    """Returns the nodes that stay in float32, each with the reason ("" by rule 4).

    DequantizeLinear nodes are left out: each takes the type of its readers.

    Args:
        graph: float32 between its quantizers.
        largest: tensor name -> largest magnitude on the calibration images; tensors without one are not judged.
        ends: names of inputs that are float16.
    """
    nodes: dict[ir.Node, str] = {}
    full: set[ir.Value] = {v for v in graph.model.graph.inputs if v.name not in ends}
    for node in graph.nodes():
        if node.op_type == "DequantizeLinear" or not _is_float(node):
            continue
        reason = _range(node, largest) or _constants(node) or _scales(node)
        first = node.inputs[0] if node.inputs else None
        keeps_type = node.op_type in _KEEP_TYPE and first in full
        if reason is None and (_always_float32(node) or keeps_type or normalized_pixels(node.outputs[0]) is not None):
            reason = ""
        if reason is not None:
            nodes[node] = reason
            full.update(node.outputs)
    return nodes


def _is_float(node: ir.Node) -> bool:
    """Returns whether the node computes with floating-point values (the Shape of an image does not)."""
    if node.op_type in DESCRIBES:
        return False
    return any(v is not None and v.dtype == FULL for v in (*node.inputs, *node.outputs))


def _always_float32(node: ir.Node) -> bool:
    """Returns whether the node's floating-point result is float32 whatever the types of its inputs."""
    if node.op_type == "Cast" or node.outputs[0].dtype != FULL:
        return False
    schema = onnx.defs.get_schema(node.op_type, CANONICAL_OPSET, node.domain)
    allowed = all("tensor(float16)" in formal.types for formal in schema.outputs[:1])
    return not allowed or not any(v is not None and v.dtype == FULL for v in node.inputs)


def _range(node: ir.Node, largest: Mapping[str, float]) -> str | None:
    """Returns which tensor or sum of the node leaves the range of float16 (rule 1), or None."""
    for value in (*node.inputs, *node.outputs):
        if value is None or value.dtype != FULL or value.is_initializer():
            continue
        magnitude = largest.get(value.name or "")
        if magnitude is not None and magnitude > LARGEST:
            return f"{value.name} reaches {magnitude:.3g}"
        if magnitude is not None and 0 < magnitude < SMALLEST:
            return f"{value.name} stays below {magnitude:.3g}"
    if node.op_type in SUMS and node.inputs[0] is not None:
        magnitude = largest.get(node.inputs[0].name or "", 0.0)
        term = magnitude**2 if node.op_type in SUMS_OF_SQUARES else magnitude
        total = _terms(node) * term
        if total > LARGEST:
            return f"adds up to {total:.3g} at most"
    return None


def _terms(node: ir.Node) -> int:
    """Returns how many numbers one output of a reduction adds up; an unknown size, such as the batch, counts as 1."""
    x, axes = node.inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
    assert x is not None
    if x.shape is None:
        return 1
    sizes = [d if isinstance(d, int) else 1 for d in x.shape]
    if node.op_type == "GlobalAveragePool":
        return prod(sizes[2:])
    return prod(sizes) if axes is None else prod(sizes[int(a)] for a in axes.reshape(-1))


def _constants(node: ir.Node) -> str | None:
    """Returns which constant of the node float16 does not hold (rule 2), or None."""
    if node.op_type == "QuantizeLinear":
        return None  # `_scales` checks its constants
    for value in node.inputs:
        array = constant(value)
        if value is None or array is None or array.dtype != np.float32 or not array.size:
            continue
        finite = np.abs(array[np.isfinite(array)])
        if finite.size and finite.max() > LARGEST:
            return f"the constant {value.name} holds {finite.max():.3g}"
        if array.size == 1 and finite.size and 0 < finite.max() < SMALLEST_NORMAL:
            return f"the constant {value.name} is {finite.max():.3g}"
    return None


def _scales(node: ir.Node) -> str | None:
    """Returns which scale, of the node or of its operands, float16 would distort (rule 3), or None."""
    if node.op_type == "Clip":
        readers = [use.node for use in node.outputs[0].uses()]
        return _scales(readers[0]) if len(readers) == 1 and readers[0].op_type == "QuantizeLinear" else None
    if node.op_type == "QuantizeLinear":
        scale = constant(node.inputs[1])
        exact = scale is not None and np.array_equal(scale, scale.astype(np.float16).astype(np.float32))
        return None if exact else "its scale is not exact in float16"
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is None or producer.op_type != "DequantizeLinear":
            continue
        scale = constant(producer.inputs[1])
        if scale is not None and not fits_scale(used_scales(producer, scale)):
            return f"scales of {value.name if value is not None else ''} are too small for float16"
    return None


def used_scales(dequantize: ir.Node, scale: np.ndarray) -> np.ndarray:
    """Returns the scales, of those of a DequantizeLinear, of channels that have any code but 0.

    What multiplies only zeros may be any number.
    """
    codes = constant(dequantize.inputs[0])
    if codes is None or scale.ndim == 0:
        return scale
    axis = dequantize.attributes.get_int("axis", 1)
    return scale[codes.any(axis=tuple(i for i in range(codes.ndim) if i != axis))]
