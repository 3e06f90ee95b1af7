"""GELU is always the operator Gelu.

A GELU is recognised by its polynomial, not by the tree it was written as, so the order and the association of
products do not matter. With c(x) the argument of Erf or Tanh and e its value:
1. erf form (approximate="none"):  c = x / sqrt(2);
2. tanh form (approximate="tanh"): c = sqrt(2/pi) (x + 0.044715 x^3);
3. in both, the result is x/2 + x e/2.
Rules in that order; a node whose polynomial in (x, e) is the one of 3 is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import onnx_ir as ir

from qvit_deploy.graph.canonicalize.match import close
from qvit_deploy.graph.edit import emit, remove_unused, replace
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import dims, scalar

# Exponents of (x, e) -> coefficient.
Polynomial = dict[tuple[int, int], float]

_ARGUMENTS: dict[str, tuple[str, Polynomial]] = {
    "Erf": ("none", {(1, 0): 1 / math.sqrt(2)}),
    "Tanh": ("tanh", {(1, 0): math.sqrt(2 / math.pi), (3, 0): 0.044715 * math.sqrt(2 / math.pi)}),
}
_RESULT: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
_DEPTH = 8  # the longest written form nests six deep


def fuse_gelus(model: ir.Model) -> None:
    """Applies the rules in place. What is no GELU up to the rounding of a half-precision export stays."""
    for node in list(model.graph):
        match = decomposed(node)
        if match is not None:
            result, x, approximate = match
            out = result.outputs[0]
            attributes: dict[str, int | float | str] = {"approximate": approximate}
            replace(out, emit(result, "Gelu", [x], dims(out), dict(attributes)))
    remove_unused(model)


def decomposed(node: ir.Node) -> tuple[ir.Node, ir.Value, str] | None:
    """Returns (the node with the result, x, approximate) when `node` is the Erf or Tanh of a decomposed GELU."""
    if node.op_type not in _ARGUMENTS:
        return None
    approximate, argument = _ARGUMENTS[node.op_type]
    e = node.outputs[0]
    assert node.inputs[0] is not None
    for x in _ingredients(node.inputs[0], _DEPTH):
        if not _equal(polynomial(node.inputs[0], x, e), argument):
            continue
        for result in _results(e, _DEPTH):
            if _equal(polynomial(result.outputs[0], x, e), _RESULT):
                return result, x, approximate
    return None


def polynomial(value: ir.Value | None, x: ir.Value, e: ir.Value, depth: int = _DEPTH) -> Polynomial | None:
    """Returns `value` as a polynomial in x and e, or None when it is not one."""
    if value is x:
        return {(1, 0): 1.0}
    if value is e:
        return {(0, 1): 1.0}
    number = scalar(value)
    if number is not None:
        return {(0, 0): number}
    node = value.producer() if value is not None else None
    if node is None or depth == 0 or node.op_type not in ("Add", "Sub", "Mul", "Div", "Pow"):
        return None
    a = polynomial(node.inputs[0], x, e, depth - 1)
    b = polynomial(node.inputs[1], x, e, depth - 1)
    if a is None or b is None:
        return None
    if node.op_type == "Add":
        return _sum(a, b)
    if node.op_type == "Sub":
        return _sum(a, _product(b, {(0, 0): -1.0}))
    if node.op_type == "Mul":
        return _product(a, b)
    constant_term = b.get((0, 0), 0.0)
    if len(b) != 1 or constant_term == 0.0:
        return None
    if node.op_type == "Div":
        return _product(a, {(0, 0): 1.0 / constant_term})
    if constant_term not in (2.0, 3.0):
        return None
    power = _product(a, a)
    return power if constant_term == 2.0 else _product(power, a)


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    return {key: a.get(key, 0.0) + b.get(key, 0.0) for key in {**a, **b}}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    out: Polynomial = {}
    for (i, j), p in a.items():
        for (k, m), q in b.items():
            out[i + k, j + m] = out.get((i + k, j + m), 0.0) + p * q
    return out


def _equal(a: Polynomial | None, b: Polynomial) -> bool:
    return a is not None and a.keys() == b.keys() and all(close(a[key], b[key]) for key in b)


def _ingredients(value: ir.Value, depth: int) -> Iterator[ir.Value]:
    """Values that `value` is computed from by arithmetic, nearest first: the candidates for x."""
    layer = [value]
    for _ in range(depth):
        following: list[ir.Value] = []
        for v in layer:
            if constant(v) is not None:
                continue
            yield v
            node = v.producer()
            if node is not None and node.op_type in ("Add", "Sub", "Mul", "Div", "Pow"):
                following += [i for i in node.inputs if i is not None]
        layer = list(dict.fromkeys(following))


def _results(value: ir.Value, depth: int) -> Iterator[ir.Node]:
    """Nodes that `value` flows into by arithmetic, nearest first: the candidates for the result."""
    layer = [value]
    for _ in range(depth):
        nodes = [use.node for v in layer for use in v.uses()]
        nodes = [node for node in dict.fromkeys(nodes) if node.op_type in ("Add", "Sub", "Mul", "Div")]
        yield from nodes
        layer = [node.outputs[0] for node in nodes]
