"""Answers what rules ask of a graph from anywhere: nothing is assumed about its names, shapes or order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from qvit_deploy.graph import external_data
from qvit_deploy.graph.graph import constant
from qvit_deploy.graph.op_traits import DESCRIBES, MOVES, PRODUCTS, QUANTIZERS
from qvit_deploy.graph.quiet import quiet
from qvit_deploy.lint.tensorrt_versions import PLUGIN_WINS

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
_STANDARD = ("", "ai.onnx")
_LARGEST_PARAMETERS = 1 << 20
"""Elements of the largest scale or zero point that is read: enough for a block-quantized matrix, never a weight."""


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A QuantizeLinear or DequantizeLinear and its parameters.

    Attributes:
        codes: type of the integers; None when it is unknown.
        scale, zero_point: arrays; None when they are computed at run time, unreadable or (zero point) left out.
        axis: along which a scale per channel runs.
        block_size: elements per scale along the axis; 0 without blocks.
        of_data: whether what is quantized depends on the model's inputs, as an activation does.
    """

    node: ir.Node
    codes: ir.DataType | None
    scale: np.ndarray | None
    zero_point: np.ndarray | None
    axis: int
    block_size: int
    of_data: bool

    @property
    def value(self) -> ir.Value | None:
        """The tensor that is quantized or dequantized."""
        return self.node.inputs[0] if self.node.inputs else None

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves the whole tensor; a scale that cannot be read counts as one."""
        return self.scale is None or self.scale.size == 1


@dataclass(frozen=True, eq=False)
class Operand:
    """One operand of a matrix product; `quantizer` is the DequantizeLinear behind it, seen through layout changes."""

    value: ir.Value | None
    quantizer: Quantizer | None
    of_data: bool


VERSIONED = ("tensorrt",)
"""Targets that are linted for a version of theirs."""


@dataclass(frozen=True, eq=False)
class Product:
    """A MatMul, Gemm or convolution with its two operands."""

    node: ir.Node
    operands: tuple[Operand, ...]

    @property
    def quantized(self) -> int:
        """How many operands are quantized."""
        return sum(o.quantizer is not None for o in self.operands)


class View:
    """A model with the questions that rules ask of it. The model that is given is not changed.

    Attributes:
        nodes: of the graph, its subgraphs and its functions.
        opset: of the standard domain; 0 when the file declares none.
        version: (major, minor) of the runtime; of TensorRT for its targets.
    """

    def __init__(self, model: ir.Model, target: str, version: tuple[int, int]) -> None:
        self.target = target
        self.version = version
        self.model = _with_shapes(model)
        self.opset = self.model.opset_imports.get("", self.model.opset_imports.get("ai.onnx", 0))
        scopes: list[ir.Graph | ir.Function] = [self.model.graph]
        scopes += [f for f in self.model.functions.values() if not self._replaced_by_plugin(f)]
        self.nodes: tuple[ir.Node, ...] = tuple(n for scope in scopes for n in scope.all_nodes())
        self._data = self._reachable()

    @property
    def versioned(self) -> bool:
        """Whether `version` is the one of the target itself."""
        return self.target in VERSIONED

    def _replaced_by_plugin(self, function: ir.Function) -> bool:
        """Returns whether TensorRT runs a plugin instead of the function, which its callers declare to be one."""
        return self.versioned and self.version >= PLUGIN_WINS and "plugin_namespace" in function.attributes

    def named(self, *op_types: str) -> Iterator[ir.Node]:
        """Returns the nodes of these types in the standard domain."""
        return (n for n in self.nodes if n.op_type in op_types and n.domain in _STANDARD)

    def custom(self) -> Iterator[ir.Node]:
        """Returns the nodes of every other domain."""
        return (n for n in self.nodes if n.domain not in _STANDARD)

    def body(self, node: ir.Node) -> ir.Function | None:
        """Returns the local function that a node calls, None when it calls none."""
        return self.model.functions.get((node.domain, node.op_type, node.overload))

    def tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        """Returns what is stored for a constant, its data not read; None when there is none, or a malformed one."""
        with contextlib.suppress(Exception):  # a Constant node of an untrusted file may lack its value
            return ir.convenience.get_const_tensor(value)
        return None

    def constant(self, value: ir.Value | None, largest: int | None = None) -> np.ndarray | None:
        """Returns the array of a constant.

        None when the value is not constant, cannot be read, holds no numbers or has more than `largest` elements.
        """
        if value is None:
            return None
        # Tensors of untrusted files raise whatever numpy or protobuf finds wrong with them.
        with contextlib.suppress(Exception):
            tensor = self.tensor(value)
            if tensor is None or (largest is not None and tensor.size > largest):
                return None
            if isinstance(tensor, ir.ExternalTensor) and external_data.problem(tensor) is not None:
                return None
            array = constant(value)
            return None if array is None or array.dtype.kind in "SUO" else array
        return None

    def scalar(self, value: ir.Value | None) -> float | None:
        """Returns a constant of one element as a number, None for anything else."""
        array = self.constant(value, 1)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def of_data(self, value: ir.Value | None) -> bool:
        """Returns whether the value depends on what the model's inputs hold, not only on their shapes."""
        return value is not None and value in self._data

    @cached_property
    def quantizers(self) -> tuple[Quantizer, ...]:
        """Every QuantizeLinear and DequantizeLinear."""
        return tuple(q for n in self.nodes if (q := self.quantizer(n)) is not None)

    def quantizer(self, node: ir.Node | None) -> Quantizer | None:
        """Returns the node as a Quantizer if it is one, of the standard domain or of com.microsoft; else None."""
        if node is None or node.op_type not in QUANTIZERS or not node.inputs:
            return None
        inputs = [*node.inputs, None, None][:3]
        zero = inputs[2]
        if zero is not None:
            codes = zero.dtype
        elif node.op_type == "DequantizeLinear":
            codes = inputs[0].dtype if inputs[0] is not None else None
        else:
            dtype = integer(node, "output_dtype", 0)
            codes = ir.DataType(dtype) if dtype in ir.DataType._value2member_map_ and dtype else ir.DataType.UINT8
        return Quantizer(
            node, codes, self.constant(inputs[1], _LARGEST_PARAMETERS), self.constant(zero, _LARGEST_PARAMETERS),
            integer(node, "axis", 1), integer(node, "block_size", 0), self.of_data(inputs[0]),
        )  # fmt: skip

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """Every matrix product and convolution."""
        return tuple(Product(n, tuple(self.operand(v) for v in n.inputs[:2])) for n in self.named(*PRODUCTS))

    def operand(self, value: ir.Value | None) -> Operand:
        """Returns `value` as an operand of a product."""
        return Operand(value, self.dequantizer(value), self.of_data(value))

    def dequantizer(self, value: ir.Value | None) -> Quantizer | None:
        """Returns the DequantizeLinear that a value comes from through layout changes, None without one."""
        node = before(value, MOVES)
        return self.quantizer(node) if node is not None and node.op_type == "DequantizeLinear" else None

    def _reachable(self) -> frozenset[ir.Value]:
        """Returns the values that depend on what the inputs hold."""
        graph = self.model.graph
        start = [v for v in graph.inputs if v.const_value is None]
        start += [v for f in self.model.functions.values() for v in f.inputs]
        for node in self.nodes:
            if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
                start.extend(node.outputs)  # what a branch or a loop returns is not followed
            if node.graph is not graph and isinstance(node.graph, ir.Graph):
                start.extend(node.graph.inputs)
        reached, stack = set(start), list(start)
        while stack:
            for use in stack.pop().uses():
                new = [] if use.node.op_type in DESCRIBES else [v for v in use.node.outputs if v not in reached]
                reached.update(new)
                stack.extend(new)
        return frozenset(reached)


def before(value: ir.Value | None, through: Set[str]) -> ir.Node | None:
    """Returns the first producer of a value that is not one of `through`, following first inputs."""
    node = value.producer() if value is not None else None
    for _ in range(1000):
        if node is None or node.op_type not in through or not node.inputs or node.inputs[0] is None:
            return node
        node = node.inputs[0].producer()
    return None


def readers(value: ir.Value | None, through: Set[str] = frozenset()) -> tuple[ir.Node, ...]:
    """Returns the nodes that read a value, also behind nodes of `through`, each once."""
    nodes: dict[ir.Node, None] = {}
    stack, seen = [value], set()
    while stack:
        current = stack.pop()
        if current is None or current in seen:
            continue
        seen.add(current)
        for use in current.uses():
            if use.node.op_type in through:
                stack.extend(use.node.outputs)
            else:
                nodes[use.node] = None
    return tuple(nodes)


def sizes(value: ir.Value | None) -> list[int | None] | None:
    """Returns the shape with None for every size that is not a number; None when even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape]


def integer(node: ir.Node, name: str, default: int) -> int:
    """Returns an integer attribute; `default` when it is absent or of another type."""
    attribute = node.attributes.get(name)
    return int(attribute.value) if attribute is not None and attribute.type == ir.AttributeType.INT else default


def text(node: ir.Node, name: str) -> str | None:
    """Returns a string attribute; None when it is absent or of another type."""
    attribute = node.attributes.get(name)
    return str(attribute.value) if attribute is not None and attribute.type == ir.AttributeType.STRING else None


def _with_shapes(model: ir.Model) -> ir.Model:
    """Returns a copy with every shape and type that inference finds; the copy shares constants."""
    # What cannot be copied (nodes before their inputs) or followed by inference is linted with what it says itself.
    copy = model
    with quiet("onnx_ir"):
        try:
            copy = model.clone()
            return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy).model
        except Exception:  # whatever onnx_ir and onnx raise on files that are not valid
            return copy
