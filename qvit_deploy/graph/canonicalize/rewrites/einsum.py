"""Einsum is Transpose, Reshape and MatMul where it is a permutation or a product of two tensors.

Every letter of such a product of a and b is one of four kinds: it is in both and in the result ("batch"), in both and
summed, or in one of them and in the result. Rules, in order:
1. an Einsum of one tensor whose letters are those of the result, each once, is a Transpose;
2. a product with a constant that shares no batch letter is a Linear: MatMul(a [..., summed], b [summed, right]);
3. any other product is MatMul(a [batch..., left, summed], b [batch..., summed, right]);
in both, several letters of one kind are joined by a Reshape. Anything else (a diagonal, a sum over one tensor alone, no
summed letter) stays: the executor knows Einsum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from qvit_deploy.graph.edit import emit, remove_unused, replace, shape_constant
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.query import Dim, dims, rank


def write_einsums_out(model: ir.Model) -> None:
    """Applies the rules in place; shapes must be known up to the batch."""
    for node in list(model.graph):
        if node.op_type == "Einsum":
            result = _rewritten(node)
            if result is not None:
                replace(node.outputs[0], result)
                model.graph.remove(node, safe=True)
    remove_unused(model)


def _rewritten(node: ir.Node) -> ir.Value | None:
    operands = [value for value in node.inputs if value is not None]
    letters, out = _letters(node.attributes["equation"].as_string(), [rank(value) for value in operands])
    if any(len(set(part)) != len(part) for part in (*letters, out)):
        return None
    if len(operands) == 1:
        return _ordered(node, operands[0], letters[0], out) if set(letters[0]) == set(out) else None
    if len(operands) != 2:
        return None
    (a, b), (in_a, in_b) = operands, letters
    if constant(a) is not None:
        a, b, in_a, in_b = b, a, in_b, in_a
    batch = [c for c in in_a if c in in_b and c in out]
    summed = [c for c in in_a if c in in_b and c not in out]
    left, right = ([c for c in part if c not in other] for part, other in ((in_a, in_b), (in_b, in_a)))
    sizes = {c: d for value, part in ((a, in_a), (b, in_b)) for c, d in zip(part, dims(value), strict=True)}
    if not summed or not right or set(out) != {*batch, *left, *right} or not left + batch:
        return None
    if any(dims(value)[part.index(c)] != sizes[c] for c in batch + summed for value, part in ((a, in_a), (b, in_b))):
        return None  # one of them is broadcast
    if constant(b) is not None and not batch:
        groups_a, groups_b = [*([c] for c in left), summed], [summed, right]
        axes = [*left, *right]
        shape: list[list[str]] = [*([c] for c in left), right]
    else:
        groups_a, groups_b = [*([c] for c in batch), left, summed], [*([c] for c in batch), summed, right]
        axes = [*batch, *left, *right]
        shape = [*([c] for c in batch), left, right]
    first, second = _grouped(node, a, in_a, groups_a, sizes), _grouped(node, b, in_b, groups_b, sizes)
    if first is None or second is None:
        return None
    product = emit(node, "MatMul", [first, second], [_joined(group, sizes) for group in shape])
    apart = _reshaped(node, product, [sizes[c] for c in axes])
    return None if apart is None else _ordered(node, apart, axes, out)


def _letters(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Returns the letters of each operand and of the result; those of an ellipsis are called "0", "1", ... ."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    extra = max((r - len(p.replace("...", "")) for p, r in zip(parts, ranks, strict=True) if "..." in p), default=0)

    def spelled(part: str, count: int) -> list[str]:
        front, _, back = part.partition("...")
        between = [str(i) for i in range(extra - count, extra)] if "..." in part else []
        return [*front, *between, *back]

    operands = [spelled(p, r - len(p.replace("...", ""))) for p, r in zip(parts, ranks, strict=True)]
    if not arrow:  # the implicit result: the ellipsis, then letters that occur once, by the alphabet
        once = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    return operands, spelled(right, extra)


def _ordered(node: ir.Node, value: ir.Value, letters: list[str], wanted: list[str]) -> ir.Value:
    if letters == wanted:
        return value
    order = [letters.index(c) for c in wanted]
    shape = dims(value)
    return emit(node, "Transpose", [value], [shape[i] for i in order], {"perm": order})


def _grouped(
    node: ir.Node, value: ir.Value, letters: list[str], groups: list[list[str]], sizes: dict[str, Dim]
) -> ir.Value | None:
    """Returns a tensor with one axis per group of letters; None where two of them would be symbolic."""
    moved = _ordered(node, value, letters, [c for group in groups for c in group])
    return _reshaped(node, moved, [_joined(group, sizes) for group in groups])


def _reshaped(node: ir.Node, value: ir.Value, shape: list[Dim]) -> ir.Value | None:
    if shape == dims(value):
        return value
    assert node.graph is not None
    target = shape_constant(node.graph, shape)
    return None if target is None else emit(node, "Reshape", [value, target], shape)


def _joined(letters: list[str], sizes: dict[str, Dim]) -> Dim:
    """Returns the size of an axis made of several; 1 of none."""
    known = math.prod(d for c in letters if isinstance(d := sizes[c], int))
    symbols = [d for c in letters if isinstance(d := sizes[c], str)]
    if not symbols:
        return known
    return symbols[0] if known == 1 and len(symbols) == 1 else f"{known}*{'*'.join(symbols)}"
