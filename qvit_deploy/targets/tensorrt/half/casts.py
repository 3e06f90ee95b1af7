"""Gives every value of a float32 graph its type, float16 but for nodes that stay, and casts where two types meet."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.graph.edit import add_constant, remove_unused
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph, constant
from qvit_deploy.targets.tensorrt.half.keep_fp32 import FULL, HALF, used_scales

WIDE, NARROW = "float32", "float16"
"""What ends the name of a tensor that was cast for a reader of that type, or to which another of the plain name is
cast."""
_SUFFIX = {FULL: WIDE, HALF: NARROW}


def cast(graph: ir.Graph, value: ir.Value, wanted: ir.DataType, name: str) -> ir.Value:
    """`value` cast to `wanted` under `name`, right behind the node that makes it (first of all for inputs)."""
    node = ir.node("Cast", [value], {"to": int(wanted)}, name=f"{name}.Cast")
    made = node.outputs[0]
    made.name, made.shape, made.type = name, value.shape, ir.TensorType(wanted)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return made


class Caster:
    """Gives every value of a graph its type and puts a Cast wherever two types meet."""

    def __init__(self, graph: Graph, islands: set[ir.Node], ends: Collection[str]) -> None:
        self.model, self.graph = graph.model, graph.model.graph
        self.islands = islands
        self.ends = ends
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.floats = {v for v in self._values() if v.dtype == FULL}

    def _values(self) -> list[ir.Value]:
        made = [v for node in self.graph for v in node.outputs]
        return [*self.graph.inputs, *self.graph.initializers.values(), *made]

    def run(self) -> None:
        """Types every value and inserts the casts; nodes come out unsorted."""
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
                    wanted = self.precision(node) if _is_generic(node, index) else FULL
                    node.replace_input_with(index, self.typed(node, operand, wanted))
        for value in list(self.graph.outputs):
            if value.name not in self.ends:
                self.widen(value)
        remove_unused(self.model)

    def precision(self, node: ir.Node) -> ir.DataType:
        return FULL if node in self.islands else HALF

    def typed(self, reader: ir.Node, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        """`value` as `wanted`: itself, another constant, another DequantizeLinear or a Cast, made once."""
        known = self.casts.get((value, wanted))
        if known is not None:
            return known
        pair = value.producer()
        if value.is_initializer():
            made = self.constant(value, wanted)
        elif pair is not None and pair.op_type == "DequantizeLinear":
            made = self.pair(reader, pair, wanted)
        elif value.dtype == wanted:
            made = value
        else:
            made = cast(self.graph, value, wanted, f"{value.name}.{_SUFFIX[wanted]}")
        self.casts[value, wanted] = made
        return made

    def constant(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        array = constant(value)
        assert array is not None
        if wanted == FULL:
            return value
        return add_constant(self.graph, f"{value.name}.{_SUFFIX[HALF]}", array.astype(np.float16))

    def pair(self, reader: ir.Node, pair: ir.Node, wanted: ir.DataType) -> ir.Value:
        """The result, as `wanted`, of a copy of the DequantizeLinear `pair` in front of `reader`.

        Scales of channels that hold no code but 0 become 1, so that float16 holds all of them.
        """
        codes, scale, zero = pair.inputs
        array = constant(scale)
        assert codes is not None and scale is not None and array is not None
        used, name = used_scales(pair, array), f"{scale.name}.used"
        if used.size < array.size:
            known = self.graph.initializers.get(name)
            array = np.where(np.isin(array, used), array, np.float32(1))
            scale = known if known is not None else add_constant(self.graph, name, array)
            self.floats.add(scale)
        node = ir.node("DequantizeLinear", [codes, self.typed(reader, scale, wanted), zero], pair.attributes)
        made, old = node.outputs[0], pair.outputs[0]
        made.name = old.name if wanted == HALF else f"{old.name}.{_SUFFIX[FULL]}"
        node.name, made.shape, made.type = f"{made.name}.DequantizeLinear", old.shape, ir.TensorType(wanted)
        if wanted == HALF:
            old.name, pair.name = f"{old.name}.replaced", f"{pair.name}.replaced"
        self.graph.insert_before(reader, node)
        return made

    def widen(self, value: ir.Value) -> None:
        """Makes a graph output float32, under its own name."""
        if value.dtype != HALF:
            return
        name = value.name
        value.name = f"{name}.{_SUFFIX[HALF]}"
        wide = cast(self.graph, value, FULL, name or "")
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = wide


def _is_generic(node: ir.Node, index: int) -> bool:
    """Whether ONNX lets input `index` be float16 (a Resize, for instance, takes its scales in float32 only)."""
    schema = onnx.defs.get_schema(node.op_type, CANONICAL_OPSET, node.domain)
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return "tensor(float16)" in formal.types
