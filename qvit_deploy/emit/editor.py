"""Adds nodes and constants to one graph under given names."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.names import raw
from qvit_deploy.graph.edit import add_constant, free_node_name, free_value_name, shared_constant
from qvit_deploy.graph.graph import Graph


class Editor:
    """Writes into `graph`; nodes come out unsorted, so sort the graph at the end.

    Attributes:
        for_onnxruntime: write what ONNX Runtime needs to fuse quantizers, which other runtimes do without.
    """

    def __init__(self, graph: Graph, for_onnxruntime: bool) -> None:
        self.graph = graph.model.graph
        self.fixed_batch = graph.static_batch is not None
        self.for_onnxruntime = for_onnxruntime

    def add(
        self,
        before: ir.Node,
        op_type: str,
        inputs: list[ir.Value],
        output: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        """Adds a node in front of `before` and returns its result, of type `dtype` and called `output`, or `output.1`,
        `output.2`... when a value of the model has that name.

        Its shape is left unknown: shapes in the emitted graph are those that canonicalization measured.
        """
        node = ir.node(op_type, inputs, attributes or {}, name=free_node_name(self.graph, f"{output}.{op_type}"))
        value = node.outputs[0]
        value.name, value.type = free_value_name(self.graph, output), ir.TensorType(dtype)
        self.graph.insert_before(before, node)
        return value

    def constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        """Adds an initializer called `name`, or `name.1`, `name.2`... when that is used."""
        return add_constant(self.graph, name, np.asarray(array))

    def shared(self, name: str, array: np.ndarray) -> ir.Value:
        """Returns the constant of that name and value, added at its first use."""
        return shared_constant(self.graph, name, array)

    def row_axis(self) -> ir.Value:
        """Returns int64 [1], the axes of the Unsqueeze and Squeeze that lift [batch, channels] to [batch, 1,
        channels]."""
        return self.shared("row_axis", np.array([1], np.int64))

    def behind(self, node: ir.Node, steps: list[tuple[str, ir.Value]]) -> None:
        """Applies `operator(output, value)` for every step.

        The last result takes the output's name: readers, graph outputs and names made from it stay what they were.
        """
        product = node.outputs[0]
        name, product.name = product.name, free_value_name(self.graph, raw(product.name or ""))
        added: list[ir.Node] = []
        for op_type, value in steps:
            step = ir.node(op_type, [added[-1].outputs[0] if added else product, value])
            step.name = free_node_name(self.graph, f"{name}.{op_type}{len(added)}")
            step.outputs[0].name = free_value_name(self.graph, step.name)
            step.outputs[0].shape, step.outputs[0].type = product.shape, product.type
            self.graph.insert_after(added[-1] if added else node, step)
            added.append(step)
        last = added[-1].outputs[0]
        ir.convenience.replace_all_uses_with(product, last, replace_graph_outputs=True)
        added[0].replace_input_with(0, product)
        last.name = name

    def lifts(self, x: ir.Value) -> bool:
        """Returns True for [batch, channels] inputs that become [batch, 1, channels]: ONNX Runtime makes a Gemm of a
        rank-2 MatMul + Add before it looks for Q/DQ, and would run it in float."""
        return self.for_onnxruntime and x.shape is not None and len(x.shape) == 2
