"""Which tensors depend on the inputs, and how: the questions relevance rules ask of a graph.

Rules match on this instead of on module classes, so an exported model needs no registration ("my model is not
supported" is the most common complaint about LRP tools).
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import DESCRIBES, ELEMENTWISE, MOVES, SCALES, SUMS
from qvit_deploy.graph.query import producer


class Dataflow:
    """The dependence of every value of `graph` on its inputs, with the nodes frozen so far.

    A *frozen* node passes no gradient back (stop-gradient rules); freezing changes which operands later rules see
    as live, which is why a rule set lists its freezing rules first.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._frozen: set[ir.Node] = set()
        self._data = self._reachable()
        self._live = self._data
        self._used = self._needed()

    def freeze(self, nodes: Iterable[ir.Node]) -> None:
        """Marks nodes whose output no longer passes a gradient."""
        before = len(self._frozen)
        self._frozen.update(nodes)
        if len(self._frozen) != before:
            self._live = self._reachable()
            self._used = self._needed()

    def is_data(self, value: ir.Value | None) -> bool:
        """Tells whether the value depends on the inputs."""
        return value in self._data

    def is_used(self, node: ir.Node) -> bool:
        """Tells whether some gradient of the logits can arrive at an output of the node and go on to an input."""
        return any(out in self._used and out in self._live for out in node.outputs)

    def data_inputs(self, node: ir.Node) -> list[int]:
        """Indices of the node's inputs that are live."""
        return [i for i, value in enumerate(node.inputs) if value in self._live]

    def _reachable(self) -> set[ir.Value | None]:
        reachable: set[ir.Value | None] = set(self.graph.inputs)
        for node in self.graph.nodes():
            if node.op_type in DESCRIBES or node in self._frozen:
                continue
            if any(value in reachable for value in node.inputs if value is not None):
                reachable.update(node.outputs)
        return reachable

    def _needed(self) -> set[ir.Value | None]:
        needed: set[ir.Value | None] = set(self.graph.outputs)
        for node in reversed(list(self.graph.nodes())):
            if any(out in needed for out in node.outputs) and not (node in self._frozen or node.op_type in DESCRIBES):
                needed.update(value for value in node.inputs if value is not None)
        return needed


def elementwise_source(value: ir.Value | None, flow: Dataflow, source: ir.Value | None) -> bool:
    """Tells whether every data path into `value` starts at `source` and goes through elementwise operators only."""
    stack, seen = [value], set()
    while stack:
        current = stack.pop()
        if current is source or current in seen or not flow.is_data(current):
            continue
        seen.add(current)
        node = producer(current)
        if node is None or node.op_type not in ELEMENTWISE:
            return False
        stack.extend(node.inputs)
    return True


def scaled_source(value: ir.Value | None, flow: Dataflow) -> ir.Value | None:
    """Returns the tensor behind `value` when constants that multiply or divide it are taken away."""
    while value is not None and (node := value.producer()) is not None and node.op_type in SCALES:
        data = [v for v in node.inputs if flow.is_data(v)]
        if len(data) != 1 or (node.op_type == "Div" and data[0] is not node.inputs[0]):
            break
        value = data[0]
    return value


def reduced(value: ir.Value | None, flow: Dataflow, depth: int = 3) -> bool:
    """Tells whether `value` is a mean or sum over features, up to an added epsilon or a clip (a norm's square)."""
    node = producer(value)
    if node is None or depth == 0:
        return False
    if node.op_type in SUMS:
        return True
    data = [v for v in node.inputs if flow.is_data(v)]
    return node.op_type in ("Add", "Clip", "Max", "Mul", "Div") and len(data) == 1 and reduced(data[0], flow, depth - 1)


def is_linear_map(node: ir.Node, flow: Dataflow) -> bool:
    """Tells whether a sum's two operands are one tensor, moved and scaled: a rotary embedding, not a skip
    connection."""
    origins = [_origins(value, flow) for value in node.inputs]
    return origins[0] == origins[1] and len(origins[0]) == 1


def _origins(value: ir.Value | None, flow: Dataflow) -> set[ir.Value | None]:
    """Returns the data tensors that `value` is made of by moving, negating and scaling by constants."""
    origins, stack = set[ir.Value | None](), [value]
    while stack:
        current = stack.pop()
        node = producer(current)
        data = [v for v in node.inputs if flow.is_data(v)] if node is not None else []
        is_fixed = node is not None and (
            node.op_type in MOVES
            or node.op_type == "Neg"
            or (node.op_type in SCALES and data == [node.inputs[0]])
            or (node.op_type == "Mul" and data == [node.inputs[1]])
        )
        if is_fixed:
            stack.extend(data)
        else:
            origins.add(current)
    return origins


def reads_image(value: ir.Value | None, flow: Dataflow) -> bool:
    """Tells whether `value` holds an input's own values, moved around at most (a patch embedding's input)."""
    while value is not None and not value.is_graph_input():
        node = value.producer()
        if node is None or node.op_type not in MOVES:
            return False
        value = node.inputs[0]
    return value is not None
