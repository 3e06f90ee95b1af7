"""Finds the sites of a canonical graph: the matrix products and convolutions that can be quantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx_ir as ir

from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.op_traits import MOVES, ON_SCORES, WEIGHTED
from qvit_deploy.graph.pixel_input import normalized_pixels
from qvit_deploy.graph.query import bias_of, producer, producers

Kind = Literal["linear", "conv", "matmul_qk", "matmul_av"]
Role = Literal["image", "post_layernorm", "post_gelu", "post_relu", "post_softmax", "query", "key", "value", "other"]

SMALLEST_REDUCTION = 16
"""Products that sum fewer terms stay in float: they cost nothing and no integer kernel takes them (TensorRT
excludes GEMMs with K < 16). CaiT's talking heads, which mix 4 heads, are the case in the field."""


@dataclass(frozen=True)
class Site:
    """One quantizable product `input x weight` (or `input x second` for attention), by tensor names.

    Attributes:
        name: module path of the weight's owner, e.g. `blocks.0.attn.qkv`; attention products are
            `<attention module>.qk` and `.av`.
        input: the activation operand (for attention: query, or the softmax's output).
        second: the other data operand of an attention product (key or value), None for weights.
        weight: initializer, [in, out] for linear and [out, in/groups, kh, kw] for conv; None for attention.
        bias: initializer [out] added right after the product, or None.
        product: output of the MatMul/Conv itself; `output` is after the bias.
        params: weight elements (bias not counted).
    """

    name: str
    kind: Kind
    role: Role
    input: str
    second: str | None
    weight: str | None
    bias: str | None
    product: str
    output: str
    params: int


def find_sites(graph: Graph) -> tuple[Site, ...]:
    """Returns all sites in topological order. Their names are unique."""
    sites: list[Site] = []
    uses_of_name: dict[str, int] = {}
    for node in graph.nodes():
        site = _linear(node) or _conv(node) or _attention(node)
        if site is None:
            continue
        count = uses_of_name[site.name] = uses_of_name.get(site.name, 0) + 1
        if count > 1:  # one weight used at several places, or an export without names
            site = replace(site, name=f"{site.name}.{count}")
        sites.append(site)
    return tuple(sites)


def ends(graph: Graph) -> tuple[str, ...]:
    """Returns the names of the first site with weights and of the last one that each output depends on.

    None where these would be all sites with weights.
    """
    weighted = [site for site in find_sites(graph) if site.weight]
    found = {site.name: None for site in weighted[:1]}
    for output in graph.outputs:
        reached = _all_that_reach(output)
        found |= {site.name: None for site in [s for s in weighted if s.product in reached][-1:]}
    return tuple(found) if len(found) < len(weighted) else ()


def _all_that_reach(value: ir.Value) -> set[str]:
    """Returns the names of all values that `value` is computed from, and its own."""
    stack, reached = [value], set()
    while stack:
        each = stack.pop()
        if _name(each) in reached:
            continue
        reached.add(_name(each))
        if (node := each.producer()) is not None:
            stack.extend(v for v in node.inputs if v is not None)
    return reached


@dataclass(frozen=True)
class FloatLayer:
    """A layer with weights that is no site, so it runs in floating point.

    Attributes:
        name: module path of the weight's owner, or the node's name.
        operator: type of the operator, e.g. ConvTranspose, which no integer kernel of the targets takes.
        params: weight elements (bias not counted).
    """

    name: str
    operator: str
    params: int


def float_layers(graph: Graph, sites: Sequence[Site]) -> tuple[FloatLayer, ...]:
    """Returns the layers of `graph` with weights that are none of `sites`, in topological order."""
    products = {site.product for site in sites}
    layers = []
    for node in graph.nodes():
        if node.op_type not in WEIGHTED or _name(node.outputs[0]) in products:
            continue
        weights = [v for v in node.inputs if v is not None and v.is_initializer() and v.shape is not None]
        weights = [v for v in weights if v.shape is not None and len(v.shape) > 1]
        if weights:
            params = sum(v.const_value.size for v in weights if v.const_value is not None)
            layers.append(FloatLayer(_module(weights[0]), node.op_type, params))
    return tuple(layers)


def _linear(node: ir.Node) -> Site | None:
    if node.op_type != "MatMul":
        return None
    x, w = node.inputs
    assert x is not None and w is not None
    if w.shape is None or not w.is_initializer() or len(w.shape) != 2 or x.is_initializer():
        return None
    rows, columns = (int(d) for d in w.shape)  # type: ignore[arg-type]
    if rows < SMALLEST_REDUCTION:
        return None
    bias, output = _bias_after(node, columns)
    return Site(
        name=_module(w), kind="linear", role=_role(x), input=_name(x), second=None, weight=_name(w), bias=bias,
        product=_name(node.outputs[0]), output=output, params=rows * columns,
    )  # fmt: skip


def _conv(node: ir.Node) -> Site | None:
    if node.op_type != "Conv":
        return None
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None and w is not None
    weight = constant(w)
    if weight is None or weight.ndim != 4 or weight[0].size < SMALLEST_REDUCTION:
        return None  # convolutions of sequences and of videos stay in float
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    output = _name(node.outputs[0])
    return Site(
        name=_module(w), kind="conv", role=_role(x), input=_name(x), second=None, weight=_name(w),
        bias=None if bias is None else _name(bias), product=output, output=output, params=weight.size,
    )  # fmt: skip


def _attention(node: ir.Node) -> Site | None:
    if node.op_type != "MatMul":
        return None
    left, right = node.inputs
    assert left is not None and right is not None
    if left.is_initializer() or right.is_initializer():
        return None
    kind: Kind
    if _reaches_softmax(node.outputs[0]):
        kind, role = "matmul_qk", "query"
    elif any(p.op_type == "Softmax" for p in producers(left, MOVES | {"MatMul", "Add", "Mul"})):
        kind, role = "matmul_av", "post_softmax"
    else:
        return None
    output = _name(node.outputs[0])
    return Site(
        name=f"{_attention_module(right)}.{kind[-2:]}", kind=kind, role=role, input=_name(left),  # type: ignore[arg-type]
        second=_name(right), weight=None, bias=None, product=output, output=output, params=0,
    )  # fmt: skip


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


def _module(weight: ir.Value) -> str:
    return _name(weight).removesuffix(".weight")


def _bias_after(node: ir.Node, columns: int) -> tuple[str | None, str]:
    """Returns (name of the bias or None, name of the tensor after it) of a MatMul with `columns` outputs."""
    add = bias_of(node)
    bias = None if add is None else add.inputs[1]
    if add is None or bias is None or not bias.is_initializer() or bias.shape is None or bias.shape[0] != columns:
        return None, _name(node.outputs[0])
    return _name(bias), _name(add.outputs[0])


def _role(value: ir.Value) -> Role:
    if _is_image(value):
        return "image"
    if {node.op_type for node in producers(value)} == {"Relu"}:
        return "post_relu"
    roles: dict[str, Role] = {
        "LayerNormalization": "post_layernorm",
        "Gelu": "post_gelu",
        "Softmax": "post_softmax",
    }
    while (node := value.producer()) is not None and node.op_type in ("Mul", "Add"):  # channel-wise factors and shifts
        x, other = node.inputs[0], node.inputs[1]
        if x is None or other is None or not other.is_initializer() or other.shape is None or len(other.shape) != 1:
            break
        value = x
    producer_roles = {roles.get(node.op_type, "other") for node in producers(value)}
    return producer_roles.pop() if len(producer_roles) == 1 else "other"


def _is_image(value: ir.Value) -> bool:
    while normalized_pixels(value) is None and (node := value.producer()) is not None:
        if node.op_type not in MOVES or node.inputs[0] is None:
            return False
        value = node.inputs[0]
    return value.is_graph_input() or normalized_pixels(value) is not None


def _reaches_softmax(value: ir.Value, depth: int = 8) -> bool:
    if depth == 0:
        return False
    passing = MOVES | ON_SCORES | {"MatMul"}  # talking heads: a product that mixes them
    for use in value.uses():
        node = use.node
        if node.op_type == "Softmax":
            return True
        if node.op_type == "MatMul" and not (node.inputs[1] is not None and node.inputs[1].is_initializer()):
            continue
        if node.op_type in passing and _reaches_softmax(node.outputs[0], depth - 1):
            return True
    return False


def _attention_module(value: ir.Value) -> str:
    """Returns the module path of the attention a key or value tensor belongs to: the owner of the nearest
    projection."""
    frontier: list[ir.Value | None] = [value]
    for _ in range(40):
        following: list[ir.Value | None] = []
        for current in frontier:
            node = producer(current)
            if node is None:
                continue
            if node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].is_initializer():
                return _module(node.inputs[1]).rpartition(".")[0] or "attention"
            following.extend(node.inputs)
        frontier = following
    return "attention"
