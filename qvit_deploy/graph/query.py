"""Looking things up in a graph: who makes a value, who reads it, what is constant, which shape it has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set

import onnx_ir as ir

from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.op_traits import DESCRIBES, MOVES, QUANTIZERS, SCALES, STEPS

Dim = int | str
"""A size, or the name of one that is only known when the model runs ("batch", "64*batch")."""


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Returns the node that makes `value` (when it is one of `op_types`, if any are given); None for inputs and
    constants."""
    node = None if value is None else value.producer()
    return node if node is not None and (not op_types or node.op_type in op_types) else None


def producers(value: ir.Value | None, through: Set[str] = MOVES) -> Iterator[ir.Node]:
    """Yields the nodes whose results reach `value` through operators in `through` only (data operands)."""
    stack, seen = [value], set()
    while stack:
        node = producer(stack.pop())
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if node.op_type in through:
            stack.extend(node.inputs if node.op_type == "Concat" else node.inputs[:1])
        else:
            yield node


def nodes_by_output(graph: Graph) -> dict[str, ir.Node]:
    """Maps the name of every computed tensor to the node that makes it."""
    return {value.name or "": node for node in graph.nodes() for value in node.outputs}


def node_making(graph: Graph, name: str) -> ir.Node:
    """Returns the node that makes the tensor `name`. Raises KeyError when none does."""
    node = next((node for node in graph.nodes() if any(value.name == name for value in node.outputs)), None)
    if node is None:
        raise KeyError(f"no node makes a tensor named {name!r}")
    return node


def sole_reader(value: ir.Value, *op_types: str) -> ir.Node | None:
    """Returns the one node that reads `value`, once (when it is one of `op_types`, if any are given).

    None when several nodes read it, or one does twice, or when it is also an output of the graph.
    """
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if not op_types or node.op_type in op_types else None


def bias_of(product: ir.Node) -> ir.Node | None:
    """Returns the Add that puts a constant [out] bias on a MatMul's product, when nothing else reads the product."""
    output = product.outputs[0]
    add = sole_reader(output, "Add")
    bias = constant(add.inputs[1]) if add is not None and add.inputs[0] is output else None
    return add if bias is not None and bias.ndim == 1 else None


def scalar(value: ir.Value | None) -> float | None:
    """Returns the number in a constant with a single element, else None."""
    array = constant(value) if value is not None and _size(value) in (None, 1) else None
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def ints(value: ir.Value | None) -> list[int] | None:
    """Returns a constant integer tensor as a flat list; None when it is not constant."""
    array = constant(value)
    return None if array is None else [int(i) for i in array.reshape(-1)]


def operands(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yields both orders of a binary node's two inputs."""
    a, b = node.inputs[0], node.inputs[1]
    if a is not None and b is not None:
        yield a, b
        yield b, a


def scaled(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Returns (x, c) when `value` is x * c or x / c for a scalar constant c, as one Mul or Div node.

    A constant with more dimensions than x would widen the product's shape, so it does not count.
    """
    node = producer(value, *SCALES)
    if node is None:
        return None
    for x, c in operands(node) if node.op_type == "Mul" else [(node.inputs[0], node.inputs[1])]:
        number = scalar(c)
        if x is None or number is None or constant(x) is not None or rank(x) != rank(value):
            continue
        return x, number if node.op_type == "Mul" else 1.0 / number
    return None


def dims(value: ir.Value) -> list[Dim]:
    """Returns the shape of `value`, which must be known."""
    assert value.shape is not None, f"shape of {value.name} is not known"
    return [d if isinstance(d, int) else str(d.value) for d in value.shape]


def rank(value: ir.Value) -> int:
    """Returns the number of dimensions of `value`, whose shape must be known."""
    return len(dims(value))


def perm_of(transpose: ir.Node) -> list[int]:
    """Returns the permutation of a Transpose node (the default reverses the axes)."""
    assert transpose.inputs[0] is not None
    default = list(range(rank(transpose.inputs[0])))[::-1]
    return list(transpose.attributes.get_ints("perm", default))


def _size(value: ir.Value) -> int | None:
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return math.prod(int(d) for d in value.shape if isinstance(d, int))


def names_with_gradient(graph: Graph) -> set[str]:
    """Returns the names of the tensors from which a backward pass reaches an input of floating point, or pixels."""
    reached = {value.name or "" for value in graph.inputs if value.dtype is None or value.dtype.is_floating_point()}
    reached |= pixels_as_floats(graph)
    for node in graph.nodes():
        passes = node.op_type not in STEPS and node.op_type not in DESCRIBES
        if passes and any(value is not None and value.name in reached for value in node.inputs):
            # Codes are integers, and a backward pass goes through what makes them all the same.
            codes = node.op_type in QUANTIZERS
            reached.update(
                v.name or "" for v in node.outputs if codes or v.dtype is None or v.dtype.is_floating_point()
            )
    return reached


def pixels_as_floats(graph: Graph) -> set[str]:
    """Returns the names of the tensors that are uint8 inputs in floating point: a backward pass ends there."""
    casts = (use.node for value in graph.inputs if value.dtype == ir.DataType.UINT8 for use in value.uses())
    results = (node.outputs[0] for node in casts if node.op_type == "Cast")
    return {value.name or "" for value in results if value.dtype is None or value.dtype.is_floating_point()}
