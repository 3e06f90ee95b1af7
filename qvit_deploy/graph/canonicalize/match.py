"""Reading a graph: the few questions every rewrite asks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.graph import constant

Dim = int | str


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node behind `value` when it is one of `op_types`, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type in op_types else None


def sole_consumer(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, or None when several do or when it is also a graph output."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node


def scalar(value: ir.Value | None) -> float | None:
    """The number in a constant with a single element, else None."""
    array = constant(value) if value is not None and _size(value) in (None, 1) else None
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def operands(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Both orders of a binary node's two inputs."""
    a, b = node.inputs[0], node.inputs[1]
    if a is not None and b is not None:
        yield a, b
        yield b, a


def scaled(value: ir.Value) -> tuple[ir.Value, float] | None:
    """(x, c) when `value` is x * c or x / c for a scalar constant c, as one Mul or Div node.

    A constant with more dimensions than x would widen the product's shape, so it does not count.
    """
    node = producer(value, "Mul", "Div")
    if node is None:
        return None
    for x, c in operands(node) if node.op_type == "Mul" else [(node.inputs[0], node.inputs[1])]:
        number = scalar(c)
        if x is None or number is None or constant(x) is not None or rank(x) != rank(value):
            continue
        return x, number if node.op_type == "Mul" else 1.0 / number
    return None


def ints(value: ir.Value | None) -> list[int] | None:
    """A constant integer tensor as a flat list."""
    array = constant(value)
    return None if array is None else [int(i) for i in array.reshape(-1)]


def dims(value: ir.Value) -> list[Dim]:
    """The shape: ints, or the name of a symbolic dimension ("batch", "64*batch")."""
    assert value.shape is not None, f"shape of {value.name} is not known"
    return [d if isinstance(d, int) else str(d.value) for d in value.shape]


def rank(value: ir.Value) -> int:
    return len(dims(value))


def perm_of(transpose: ir.Node) -> list[int]:
    """The permutation of a Transpose node (the default reverses the axes)."""
    assert transpose.inputs[0] is not None
    default = list(range(rank(transpose.inputs[0])))[::-1]
    return list(transpose.attributes.get_ints("perm", default))


def last_axis(axes: list[int] | None, rank_: int) -> bool:
    """Whether `axes` is exactly the last axis of a tensor of rank `rank_`."""
    return axes is not None and len(axes) == 1 and axes[0] % rank_ == rank_ - 1


def close(a: float, b: float, tolerance: float = 2e-3) -> bool:
    """Equal up to the rounding of a half-precision export."""
    return math.isclose(a, b, rel_tol=tolerance)


def same_constant(a: ir.Value | None, b: ir.Value | None) -> bool:
    x, y = constant(a), constant(b)
    return x is not None and y is not None and np.array_equal(x, y)


def _size(value: ir.Value) -> int | None:
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return math.prod(int(d) for d in value.shape if isinstance(d, int))
