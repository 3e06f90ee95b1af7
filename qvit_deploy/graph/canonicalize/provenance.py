"""What each value of a graph is made from: pixels, shapes, or weights alone."""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.graph.op_traits import DESCRIBES, RANDOM


class Provenance:
    """A classification of the nodes and values of `graph`, read once.

    Attributes:
        data_nodes: nodes that depend on pixels.
        activations: their outputs.
        frontier: values that do not depend on pixels but are read by data nodes (or are graph outputs) and are not
            initializers yet.
        varying: names among them that depend on some shape, so possibly on the batch.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.data_nodes: set[ir.Node] = set()
        self.varying: set[str] = set()
        self._weights: dict[ir.Value, frozenset[str]] = {}
        static: set[ir.Value] = set(graph.initializers.values())
        shaped: set[ir.Value] = set()
        for node in graph:
            # CastLike's second input lends a type, no data.
            read = node.inputs[:1] if node.op_type == "CastLike" else node.inputs
            inputs = [v for v in read if v is not None]
            reads_shape = node.op_type in DESCRIBES
            fixed = reads_shape or all(v in static for v in inputs)
            if not fixed or node.op_type in RANDOM or has_subgraph(node):
                self.data_nodes.add(node)
                continue
            varies = reads_shape or any(v in shaped for v in inputs)
            for output in node.outputs:
                static.add(output)
                if varies:
                    shaped.add(output)
        self.activations = [out for node in graph if node in self.data_nodes for out in node.outputs if out.name]
        self.frontier = [
            out
            for node in graph
            if node not in self.data_nodes
            for out in node.outputs
            if out.is_graph_output() or any(use.node in self.data_nodes for use in out.uses())
        ]
        self.varying = {str(v.name) for v in self.frontier if v in shaped}

    def weight_name(self, value: ir.Value) -> str | None:
        """Returns the parameter that `value` is a rearrangement of, when it is made of exactly one."""
        names = self._weights_of(value)
        return next(iter(names)) if len(names) == 1 else None

    def _weights_of(self, value: ir.Value) -> frozenset[str]:
        if value not in self._weights:
            tensor, node = value.const_value, value.producer()
            names: frozenset[str] = frozenset()
            if node is not None:
                names = names.union(*(self._weights_of(v) for v in node.inputs if v is not None))
            elif tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1:
                names = frozenset([str(value.name)])
            self._weights[value] = names
        return self._weights[value]


def has_subgraph(node: ir.Node) -> bool:
    """Tells whether the node holds graphs of its own: an If, a Loop, a Scan."""
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
