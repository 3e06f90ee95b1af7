"""Normalization inside of a graph, which takes pixels then: uint8 [batch, channels, height, width].

(p / 255 - mean) / std is written as (p - 255 mean) / (255 std), a Cast, a Sub and a Mul by the reciprocal. The
difference of two numbers of one size loses nothing, so the result is off by two roundings, some 1e-7 of itself. (It
could go into a first convolution, but not into its padding with zeros, and the codes of its weight would be others.)
TensorRT wants the Cast: uint8 is a type of its inputs only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.edit import add_constant, free_node_name, free_value_name
from qvit_deploy.graph.graph import Graph

_STEPS = ("Cast", "Sub", "Mul")


def with_pixel_input(graph: Graph, mean: Sequence[float], std: Sequence[float]) -> Graph:
    """Returns a copy of `graph` whose image input is uint8 and keeps its name.

    Args:
        mean, std: of pixels in [0, 1], for every channel or one for all.

    Raises:
        InputError: there is no image input or several, it takes pixels already, or float32 cannot hold the factors.
    """
    graph.interface.image_size  # noqa: B018 - raises where there is no image
    image = graph.interface.image
    assert image is not None
    if image.dtype == ir.DataType.UINT8:
        raise InputError(f"input {(image.given_name or image.name)!r} takes uint8 pixels already, normalized inside")
    with np.errstate(over="ignore"):
        offset = (255 * np.array(mean, np.float64)).astype(np.float32)
        factor = (1 / (255 * np.array(std, np.float64))).astype(np.float32)
    if not (np.isfinite(offset).all() and np.isfinite(factor).all() and factor.all()):
        raise InputError(f"mean {list(mean)} and std {list(std)} make no normalization of pixels that float32 holds")
    copy = graph.clone()
    ends = copy.model.graph
    value = next(v for v in ends.inputs if v.name == image.name)
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)})
    centred = ir.node("Sub", [cast.outputs[0], _constant(ends, f"{image.name}.mean", offset)])
    scaled = ir.node("Mul", [centred.outputs[0], _constant(ends, f"{image.name}.factor", factor)])
    ir.convenience.replace_all_uses_with(value, scaled.outputs[0])
    cast.replace_input_with(0, value)
    first = ends[0]
    for node, suffix in ((cast, "float"), (centred, "centred"), (scaled, "normalized")):
        result = node.outputs[0]
        result.name = free_value_name(ends, f"{image.name}.{suffix}")
        result.shape, result.type = value.shape, ir.TensorType(ir.DataType.FLOAT)
        node.name = free_node_name(ends, f"{result.name}.{node.op_type}")
        ends.insert_before(first, node)
    value.type = ir.TensorType(ir.DataType.UINT8)
    return copy


def normalized_pixels(value: ir.Value | None) -> ir.Value | None:
    """Returns the uint8 input that `value` is the normalization of, or the beginning of it; None if it is something
    else."""
    while value is not None and (node := value.producer()) is not None and node.op_type in _STEPS:
        if not all(other is not None and other.is_initializer() for other in node.inputs[1:]):
            return None
        value = node.inputs[0]
    is_pixels = value is not None and value.is_graph_input() and value.dtype == ir.DataType.UINT8
    return value if is_pixels else None


def _constant(graph: ir.Graph, name: str, by_channel: np.ndarray) -> ir.Value:
    return add_constant(graph, name, by_channel.reshape(-1, 1, 1))
