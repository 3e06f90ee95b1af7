"""Nodes in the order they run.

Rules, in order:
1. nodes that are listed before what they read are sorted, and nodes in order stay as they are;
2. a graph in which a node waits for its own result is refused.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import InputError


def sort_nodes(model: ir.Model) -> None:
    """Applies the rules in place, in local functions too. Raises InputError."""
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for body in bodies:
        if _in_order(body):
            continue
        try:
            body.sort()
        except ValueError as error:
            raise InputError("the model's nodes form a cycle; export it again") from error


def _in_order(body: ir.Graph | ir.Function) -> bool:
    graphs = [body, *(g for node in body.all_nodes() for a in node.attributes.values() for g in _graphs(a))]
    return all(_lists_in_order(graph) for graph in graphs)


def _lists_in_order(graph: ir.Graph | ir.Function) -> bool:
    waiting = set(graph)
    for node in graph:
        # What the bodies of an If or a Loop read has to be there when it runs.
        inner = (
            value for a in node.attributes.values() for g in _graphs(a) for n in g.all_nodes() for value in n.inputs
        )
        if any(value is not None and value.producer() in waiting for value in (*node.inputs, *inner)):
            return False
        waiting.remove(node)
    return True


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []
