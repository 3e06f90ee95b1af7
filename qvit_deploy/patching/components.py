"""The components of a transformer that can be patched: residual stream, attention and MLP outputs, heads.

They are read off the graph, not off module names: a skip connection is a sum in which one operand (the trunk) is also
what the other (the branch) was computed from. A branch with a softmax is an attention, one with a weighted product
an MLP.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import MOVES, SCALES
from qvit_deploy.relevance.dataflow import Dataflow, is_linear_map

Kind = Literal["residual", "attention", "mlp", "head"]
KINDS: tuple[Kind, ...] = ("residual", "attention", "mlp", "head")


@dataclass(frozen=True)
class Component:
    """One tensor that a patch replaces, a cell at a time.

    The cells of a `head` are the heads of the attention product [batch x windows, heads, tokens, channels]; those of
    the other kinds the tokens of [batch, ..., channels], in memory order.

    Attributes:
        block: number of the block; for `residual` the stream that enters it, the last one behind all blocks.
        label: of the block, as its weights are called (`blocks.3`), or `block 3`.
        tensor: name in the graph.
    """

    kind: Kind
    block: int
    label: str
    tensor: str

    @property
    def name(self) -> str:
        """The block's label and the kind."""
        return f"{self.label} {self.kind}"


@dataclass(frozen=True)
class _Skip:
    """A skip connection `add` of `trunk` and `branch`; `nodes` compute the branch from the trunk."""

    add: ir.Node
    trunk: ir.Value
    branch: ir.Value
    nodes: tuple[ir.Node, ...]

    @property
    def is_attention(self) -> bool:
        return any(n.op_type == "Softmax" for n in self.nodes)


def find_components(graph: Graph) -> tuple[Component, ...]:
    """Returns all components of `graph` in the order it computes them.

    Raises:
        InputError: the graph has no block with attention and a skip connection around it.
    """
    blocks = _blocks(list(_skips(graph)))
    if not any(skip.is_attention for block in blocks for skip in block):
        raise InputError(
            f"{graph.name!r} has no attention with a skip connection around it; RelP maps residual stream, attention "
            "and MLP of transformers"
        )
    components, earlier = [], set[ir.Node]()
    order = {node: index for index, node in enumerate(graph.nodes())}
    for number, block in enumerate(blocks):
        label = _label(block, earlier) or f"block {number}"
        earlier.update(node for skip in block for node in skip.nodes)
        components.append(Component("residual", number, label, _name(block[0].trunk)))
        for skip in block:
            if skip.is_attention and (product := _heads(skip, order)) is not None:
                components.append(Component("head", number, label, product))
            components.append(Component("attention" if skip.is_attention else "mlp", number, label, _name(skip.branch)))
    components.append(Component("residual", len(blocks), "output", _name(blocks[-1][-1].add.outputs[0])))
    return tuple(components)


def _skips(graph: Graph) -> Iterator[_Skip]:
    flow = Dataflow(graph)
    trunks: dict[ir.Value, ir.Value] = {}
    for node in graph.nodes():
        if node.op_type != "Add" or len(flow.data_inputs(node)) != 2 or is_linear_map(node, flow):
            continue
        a, b = node.inputs
        assert a is not None and b is not None
        for trunk, branch in ((a, b), (b, a)):
            if (skip := _skip(node, trunk, branch, flow, trunks)) is not None:
                trunks[node.outputs[0]] = trunk
                if any(n.op_type == "MatMul" for n in skip.nodes):
                    yield skip
                break


def _skip(
    add: ir.Node, operand: ir.Value, branch: ir.Value, flow: Dataflow, trunks: dict[ir.Value, ir.Value]
) -> _Skip | None:
    """Returns the skip connection of `add` if `operand` is what `branch` comes from: itself, before it was reshaped, or
    the trunk it was added to (parallel attention and MLP)."""
    trunk: ir.Value | None = operand
    while trunk is not None:
        reached, nodes = _between(trunk, branch, flow)
        if reached:
            return _Skip(add, operand, branch, nodes)
        producer = trunk.producer()
        if trunk in trunks:
            trunk = trunks[trunk]
        elif producer is not None and producer.op_type in MOVES:
            trunk = producer.inputs[0]
        else:
            return None
    return None


def _between(trunk: ir.Value, branch: ir.Value, flow: Dataflow) -> tuple[bool, tuple[ir.Node, ...]]:
    """Returns (whether `branch` is computed from `trunk`, the data nodes that do so)."""
    reached, nodes, stack = False, dict[ir.Node, None](), [branch]
    while stack:
        value = stack.pop()
        node = value.producer()
        if value is trunk:
            reached = True
        elif node is not None and node not in nodes and flow.is_data(value):
            nodes[node] = None
            stack.extend(v for v in node.inputs if v is not None)
    return reached, tuple(nodes)


def _blocks(skips: list[_Skip]) -> list[list[_Skip]]:
    """Groups skips into blocks: each attention with the MLPs up to the next."""
    blocks: list[list[_Skip]] = []
    for skip in skips:
        if not blocks or skip.is_attention:
            blocks.append([])
        blocks[-1].append(skip)
    return blocks


def _heads(skip: _Skip, order: Mapping[ir.Node, int]) -> str | None:
    """Returns the product of probabilities and values, with what scales it afterwards, when its heads are axis 1 of
    4."""
    products = [n for n in skip.nodes if n.op_type == "MatMul" and not _has_weight(n)]
    if not products:
        return None
    value = max(products, key=order.__getitem__).outputs[0]
    if value.shape is None or len(value.shape) != 4:
        return None
    while len(users := [use.node for use in value.uses()]) == 1 and users[0].op_type in SCALES | {"Add"}:
        value = users[0].outputs[0]
    return _name(value)


def _has_weight(node: ir.Node) -> bool:
    """Tells whether a product's second operand is constant, dequantized from codes or not."""
    value = node.inputs[1]
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type not in MOVES | {"DequantizeLinear"}:
            return False
        value = producer.inputs[0]
    return value is not None and value.is_initializer()


def _label(block: list[_Skip], earlier: Set[ir.Node]) -> str:
    """Returns what the names of all weights of a block begin with, up to a dot: `blocks.3`. A branch may also read what
    is older than its trunk (class attention)."""
    modules = [
        name.partition(".weight")[0].split(".")[:-1]
        for skip in block
        for node in skip.nodes
        if node not in earlier
        for value in _constants(node)
        if ".weight" in (name := value.name or "")
    ]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*modules, strict=False))
    return ".".join(parts[0] for parts in shared)


def _constants(node: ir.Node) -> Iterator[ir.Value]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if value is not None and value.is_initializer():
            yield value
        elif producer is not None and producer.op_type == "DequantizeLinear":
            yield from (v for v in producer.inputs if v is not None and v.is_initializer())


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name
