"""Gives every value of a float32 graph its type, float16 but for nodes that stay, and casts where two types meet."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.graph.edit import add_constant, free_node_name, free_value_name, remove_unused, shared_constant
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph, constant
from qvit_deploy.targets.tensorrt.half.keep_fp32 import FULL, HALF, used_scales

WIDE, NARROW = "float32", "float16"
"""Suffixes of tensor names: of a tensor that was cast for a reader of that type, or of one whose cast took its plain
name."""
_SUFFIX = {FULL: WIDE, HALF: NARROW}


def cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    """Returns `value` cast to `dtype` under `name`, or `name.1`, `name.2`... when that is used.

    The Cast follows the node that produces `value`, or comes first in the graph where `value` is an input.
    """
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=free_node_name(graph, f"{name}.Cast"))
    result = node.outputs[0]
    name = free_value_name(graph, name)
    result.name, result.shape, result.type = name, value.shape, ir.TensorType(dtype)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return result


class Caster:
    """Gives every value of a graph its type and puts a Cast wherever two types meet.

    Args:
        graph: float32; `run` changes it in place.
        fp32_nodes: nodes that compute in float32; all others compute in float16.
        ends: names of inputs and outputs that become float16; the others stay float32.

    Attributes:
        renamed: name of an output that is cast -> the name of what was cast, which had the output's.
    """

    def __init__(self, graph: Graph, fp32_nodes: Collection[ir.Node], ends: Collection[str]) -> None:
        self.model, self.graph = graph.model, graph.model.graph
        self.fp32_nodes = frozenset(fp32_nodes)
        self.ends = ends
        self.renamed: dict[str, str] = {}
        self.converted: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.floats = {v for v in self._values() if v.dtype == FULL}

    def _values(self) -> list[ir.Value]:
        activations = [v for node in self.graph for v in node.outputs]
        return [*self.graph.inputs, *self.graph.initializers.values(), *activations]

    def run(self) -> None:
        """Types every value and inserts the casts. Leaves the nodes unsorted."""
        # A DequantizeLinear is copied for its readers, in the type of each.
        others = [n for n in self.graph if n.op_type != "DequantizeLinear"]
        for value in self.graph.inputs:
            if value.name in self.ends:
                value.type = ir.TensorType(HALF)
        for node in others:
            for value in node.outputs:
                if value in self.floats:
                    value.type = ir.TensorType(self.precision(node))
        for node in others:
            if node.op_type == "Cast" and node.outputs[0] in self.floats:
                node.attributes["to"] = ir.AttrInt64("to", int(self.precision(node)))
            for index, operand in enumerate(list(node.inputs)):
                if operand is not None and operand in self.floats:
                    dtype = self.precision(node) if _is_generic(node, index) else FULL
                    node.replace_input_with(index, self.typed(node, operand, dtype))
        for value in list(self.graph.outputs):
            if value.name not in self.ends:
                self.widen(value)
        remove_unused(self.model)

    def precision(self, node: ir.Node) -> ir.DataType:
        """Returns the type that a node computes in."""
        return FULL if node in self.fp32_nodes else HALF

    def typed(self, reader: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Returns `value` as `dtype`: itself, another constant, another DequantizeLinear or a Cast, inserted once."""
        known = self.converted.get((value, dtype))
        if known is not None:
            return known
        producer = value.producer()
        if value.is_initializer():
            result = self._constant(value, dtype)
        elif producer is not None and producer.op_type == "DequantizeLinear":
            result = self._dequantized(reader, producer, dtype)
        elif value.dtype == dtype:
            result = value
        else:
            result = cast(self.graph, value, dtype, f"{value.name}.{_SUFFIX[dtype]}")
        self.converted[value, dtype] = result
        return result

    def _constant(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        array = constant(value)
        assert array is not None
        if dtype == FULL:
            return value
        return add_constant(self.graph, f"{value.name}.{_SUFFIX[HALF]}", array.astype(np.float16))

    def _dequantized(self, reader: ir.Node, dequantize: ir.Node, dtype: ir.DataType) -> ir.Value:
        """Copies a DequantizeLinear in front of `reader` and returns the copy's result, as `dtype`.

        Scales of channels that hold no code but 0 become 1, so that float16 holds all of them.
        """
        codes, scale, zero = dequantize.inputs
        array = constant(scale)
        assert codes is not None and scale is not None and array is not None
        used, name = used_scales(dequantize, array), f"{scale.name}.used"
        if used.size < array.size:
            array = np.where(np.isin(array, used), array, np.float32(1))
            scale = shared_constant(self.graph, name, array)
            self.floats.add(scale)
        node = ir.node("DequantizeLinear", [codes, self.typed(reader, scale, dtype), zero], dequantize.attributes)
        new, old = node.outputs[0], dequantize.outputs[0]
        if dtype == HALF:
            new.name, old.name = old.name, free_value_name(self.graph, f"{old.name}.replaced")
            dequantize.name = free_node_name(self.graph, f"{dequantize.name}.replaced")
        else:
            new.name = free_value_name(self.graph, f"{old.name}.{_SUFFIX[FULL]}")
        node.name = free_node_name(self.graph, f"{new.name}.DequantizeLinear")
        new.shape, new.type = old.shape, ir.TensorType(dtype)
        self.graph.insert_before(reader, node)
        return new

    def widen(self, value: ir.Value) -> None:
        """Makes a graph output float32, under its own name."""
        if value.dtype != HALF:
            return
        name = str(value.name)
        value.name = self.renamed[name] = free_value_name(self.graph, f"{name}.{_SUFFIX[HALF]}")
        wide = cast(self.graph, value, FULL, name)
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = wide


def _is_generic(node: ir.Node, index: int) -> bool:
    """Returns whether ONNX lets input `index` be float16 (a Resize, for instance, takes its scales in float32 only)."""
    schema = onnx.defs.get_schema(node.op_type, CANONICAL_OPSET, node.domain)
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return "tensor(float16)" in formal.types
