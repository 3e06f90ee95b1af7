"""One fused operator while it is written out: its operands, and the nodes that take its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.edit import add_constant, add_ints, free_value_name


class Call:
    """The node of a fused operator; what `op` makes goes in front of it, under its name and module scope."""

    def __init__(self, node: ir.Node) -> None:
        self.node = node
        assert isinstance(node.graph, ir.Graph)
        self._graph = node.graph

    def input(self, index: int) -> ir.Value | None:
        """Returns an input, or None when it is absent."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attr(self, name: str, default: Any) -> Any:
        """Returns an attribute as a Python value, or `default`."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Inserts an operator of one output and returns it. Attributes that are None are left out."""
        return self.ops(op_type, 1, *inputs, **attributes)[0]

    def ops(self, op_type: str, outputs: int, *inputs: ir.Value | None, **attributes: Any) -> Sequence[ir.Value]:
        """Inserts an operator and returns its outputs."""
        given = {name: value for name, value in attributes.items() if value is not None}
        node = ir.node(op_type, inputs, given, num_outputs=outputs, name=self.node.name)
        node.metadata_props.update(self.node.metadata_props)
        self._graph.insert_before(self.node, node)
        for output in node.outputs:
            if output.name in self._graph.initializers:  # onnx_ir counts names up without looking at constants
                output.name = free_value_name(self._graph, str(output.name))
        return node.outputs

    def put(self, *results: ir.Value | None) -> None:
        """Puts values in the place of the node's outputs (None: nothing reads that one) and removes the node."""
        for old, new in zip(self.node.outputs, results, strict=False):
            if new is not None:
                ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self._graph.remove(self.node, safe=True)

    def number(self, value: float) -> ir.Value:
        """Returns a float32 scalar constant."""
        return self.constant(np.asarray(value, dtype=np.float32), f"{self.node.name}/number")

    def ints(self, *values: int) -> ir.Value:
        """Returns an int64 vector constant."""
        return add_ints(self._graph, values)

    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        """Returns `array` as a constant under `name` or one like it."""
        return add_constant(self._graph, name, array)
