"""Makes a quantized float32 graph a strongly typed float16 graph, with float32 where range or exact codes demand it.

Nothing is guessed: the magnitudes are those measured on the calibration images (`calibrate.extremes`). A node computes
in float32 if

1. one of its tensors passes `LARGEST` or stays below `SMALLEST` there, or a sum it forms on the way could overflow;
2. one of its constants does not fit float16: too large, or a single number that would become 0;
3. it quantizes with a scale that float16 does not hold exactly, or multiplies weights or activations whose scales
   float16 would distort;
4. it moves, clips or quantizes values that are float32 already (casting them first could change a code), or makes
   values that ONNX, or an attribute of the node, says are float32.

Everything else is float16. The input and the outputs stay float32, so all profiles are fed alike; those of a part of a
network (`ends`) are what they are in the whole. A float32 tensor of rule 1 is never cast to float16: whoever reads it
falls under rule 1 as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import onnx_ir as ir

from qvit_deploy.emit.tensorrt import TensorrtGraph
from qvit_deploy.graph.canonicalize.edit import add_constant
from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph, constant
from qvit_deploy.graph.sites import MOVES
from qvit_deploy.quantize.half import SMALLEST_NORMAL
from qvit_deploy.quantize.plan import Plan

LARGEST = 3e4
"""Half of what float16 holds: other images may have larger values than those of the calibration."""
SMALLEST = 2.0**-13
"""A tensor whose largest value is smaller is rounded to steps of more than 2^-11 of it: float16 has no steps below
2^-24. Blocks behind a LayerScale that training left near zero have such outputs."""
SCALE_ERROR = 2.0**-10
"""Largest relative error of a scale rounded to float16; it is below 2^-11 except among subnormal numbers."""

FULL, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
WIDE, NARROW = "float32", "float16"
"""What ends the name of a tensor that was cast for a reader of that type, or to which another of the plain name is
cast."""
_SUFFIX = {FULL: WIDE, HALF: NARROW}
_SUMS = frozenset({"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool"})
_KEEP_TYPE = MOVES | {"QuantizeLinear", "Clip", "Identity"}


@dataclass(frozen=True, eq=False)
class HalfGraph:
    """What the half-precision profiles write.

    Attributes:
        graph: float16 between its quantizers, but for the islands.
        plan: the sites that are quantized in it.
        in_float: other sites of the plan -> why they are not.
        float32: what stayed in float32 by rules 1 to 3, name of a node's output -> the reason.
        packed: the sites that are operators of our own (`emit.carrier`, `emit.attention_carrier`).
    """

    graph: Graph
    plan: Plan
    in_float: dict[str, str]
    float32: dict[str, str]
    packed: tuple[str, ...] = ()


def to_half(emitted: TensorrtGraph, largest: Mapping[str, float], ends: Collection[str] = ()) -> HalfGraph:
    """A float16 copy of `emitted`.

    Args:
        largest: tensor name -> largest magnitude on the calibration images, for every tensor of its graph.
        ends: inputs and outputs that are float16 too (an output unless it is computed in float32).
    """
    converted = emitted.graph.clone()
    islands = _choose(converted, largest, ends)
    named = {node.outputs[0].name or "": reason for node, reason in islands.items() if reason}
    _Caster(converted, set(islands), ends).run()
    converted.model.graph.sort()
    return HalfGraph(converted, emitted.plan, emitted.in_float, named)


def fits_scale(scale: np.ndarray) -> bool:
    """Whether float16 holds every scale to a relative error of `SCALE_ERROR`."""
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16).astype(np.float32)
    return bool((rounded > 0).all() and (np.abs(rounded - scale) <= SCALE_ERROR * scale).all())


def _choose(graph: Graph, largest: Mapping[str, float], ends: Collection[str]) -> dict[ir.Node, str]:
    """Node -> why it stays in float32, "" by rule 4. DequantizeLinear is left out: those follow their readers."""
    islands: dict[ir.Node, str] = {}
    full: set[ir.Value] = {v for v in graph.model.graph.inputs if v.name not in ends}
    for node in graph.nodes():
        if node.op_type == "DequantizeLinear" or not _is_float(node):
            continue
        reason = _range(node, largest) or _constants(node) or _scales(node)
        first = node.inputs[0] if node.inputs else None
        if reason is None and (_stays(node) or (node.op_type in _KEEP_TYPE and first in full)):
            reason = ""
        if reason is not None:
            islands[node] = reason
            full.update(node.outputs)
    return islands


def _is_float(node: ir.Node) -> bool:
    """Whether the node reads or makes floating-point values (a Shape of an image does not compute with them)."""
    if node.op_type in ("Shape", "Size"):
        return False
    return any(v is not None and v.dtype == FULL for v in (*node.inputs, *node.outputs))


def _stays(node: ir.Node) -> bool:
    """Whether the node's floating-point result is float32 whatever it reads."""
    if node.op_type == "Cast" or node.outputs[0].dtype != FULL:
        return False
    schema = onnx.defs.get_schema(node.op_type, CANONICAL_OPSET, node.domain)
    can = all("tensor(float16)" in formal.types for formal in schema.outputs[:1])
    return not can or not any(v is not None and v.dtype == FULL for v in node.inputs)


def _range(node: ir.Node, largest: Mapping[str, float]) -> str | None:
    for value in (*node.inputs, *node.outputs):
        if value is None or value.dtype != FULL or value.is_initializer():
            continue
        found = largest.get(value.name or "")
        if found is not None and found > LARGEST:
            return f"{value.name} reaches {found:.3g}"
        if found is not None and 0 < found < SMALLEST:
            return f"{value.name} stays below {found:.3g}"
    if node.op_type in _SUMS and node.inputs[0] is not None:
        found = largest.get(node.inputs[0].name or "", 0.0)
        term = found**2 if node.op_type in ("ReduceL2", "ReduceSumSquare") else found
        total = _terms(node) * term
        if total > LARGEST:
            return f"adds up to {total:.3g} at most"
    return None


def _terms(node: ir.Node) -> int:
    """How many numbers one output of a reduction adds up; sizes that are not known, such as the batch, count as 1."""
    x, axes = node.inputs[0], constant(node.inputs[1]) if len(node.inputs) > 1 else None
    assert x is not None
    if x.shape is None:
        return 1
    sizes = [d if isinstance(d, int) else 1 for d in x.shape]
    if node.op_type == "GlobalAveragePool":
        return prod(sizes[2:])
    return prod(sizes) if axes is None else prod(sizes[int(a)] for a in axes.reshape(-1))


def _constants(node: ir.Node) -> str | None:
    if node.op_type == "QuantizeLinear":
        return None  # `_scales` looks at them
    for value in node.inputs:
        array = constant(value)
        if value is None or array is None or array.dtype != np.float32 or not array.size:
            continue
        finite = np.abs(array[np.isfinite(array)])
        if finite.size and finite.max() > LARGEST:
            return f"the constant {value.name} holds {finite.max():.3g}"
        if array.size == 1 and finite.size and 0 < finite.max() < SMALLEST_NORMAL:
            return f"the constant {value.name} is {finite.max():.3g}"
    return None


def _scales(node: ir.Node) -> str | None:
    if node.op_type == "Clip":
        readers = [use.node for use in node.outputs[0].uses()]
        return _scales(readers[0]) if len(readers) == 1 and readers[0].op_type == "QuantizeLinear" else None
    if node.op_type == "QuantizeLinear":
        scale = constant(node.inputs[1])
        exact = scale is not None and np.array_equal(scale, scale.astype(np.float16).astype(np.float32))
        return None if exact else "its scale is not exact in float16"
    for value in node.inputs:
        pair = value.producer() if value is not None else None
        scale = constant(pair.inputs[1]) if pair is not None and pair.op_type == "DequantizeLinear" else None
        if scale is not None and not fits_scale(_used(pair, scale)):
            return f"scales of {value.name if value is not None else ''} are too small for float16"
    return None


def _used(pair: ir.Node | None, scale: np.ndarray) -> np.ndarray:
    """The scales of channels that have any code but 0; the others may be any number."""
    codes = constant(pair.inputs[0]) if pair is not None else None
    if codes is None or scale.ndim == 0:
        return scale
    assert pair is not None
    axis = pair.attributes.get_int("axis", 1)
    return scale[codes.any(axis=tuple(i for i in range(codes.ndim) if i != axis))]


class _Caster:
    """Gives every value of a graph its type and puts a Cast wherever two types meet."""

    def __init__(self, graph: Graph, islands: set[ir.Node], ends: Collection[str]) -> None:
        self.graph = graph.model.graph
        self.islands = islands
        self.ends = ends
        self.casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self.floats = {v for v in self._values() if v.dtype == FULL}

    def _values(self) -> list[ir.Value]:
        made = [v for node in self.graph for v in node.outputs]
        return [*self.graph.inputs, *self.graph.initializers.values(), *made]

    def run(self) -> None:
        pairs = [n for n in self.graph if n.op_type == "DequantizeLinear"]
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
        for pair in pairs:
            if not pair.outputs[0].uses():
                self.graph.remove(pair, safe=True)
        for value in list(self.graph.outputs):
            if value.name not in self.ends:
                self.widen(value)
        for name in [n for n, v in self.graph.initializers.items() if not v.uses() and not v.is_graph_output()]:
            del self.graph.initializers[name]

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
            made = self.cast(value, wanted, f"{value.name}.{_SUFFIX[wanted]}")
        self.casts[value, wanted] = made
        return made

    def constant(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        array = constant(value)
        assert array is not None
        if wanted == FULL:
            return value
        return add_constant(self.graph, f"{value.name}.{_SUFFIX[HALF]}", array.astype(np.float16))

    def pair(self, reader: ir.Node, pair: ir.Node, wanted: ir.DataType) -> ir.Value:
        codes, scale, zero = pair.inputs
        array = constant(scale)
        assert codes is not None and scale is not None and array is not None
        used, name = _used(pair, array), f"{scale.name}.used"
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

    def cast(self, value: ir.Value, wanted: ir.DataType, name: str) -> ir.Value:
        node = ir.node("Cast", [value], {"to": int(wanted)}, name=f"{name}.Cast")
        made = node.outputs[0]
        made.name, made.shape, made.type = name, value.shape, ir.TensorType(wanted)
        producer = value.producer()
        if producer is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(producer, node)
        return made

    def widen(self, value: ir.Value) -> None:
        """Makes a graph output float32, under its own name."""
        if value.dtype != HALF:
            return
        name = value.name
        value.name = f"{name}.{_SUFFIX[HALF]}"
        wide = self.cast(value, FULL, name or "")
        for index, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[index] = wide


def _is_generic(node: ir.Node, index: int) -> bool:
    """Whether ONNX lets input `index` be float16 (a Resize, for instance, takes its scales in float32 only)."""
    schema = onnx.defs.get_schema(node.op_type, CANONICAL_OPSET, node.domain)
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return "tensor(float16)" in formal.types
