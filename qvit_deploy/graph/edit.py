"""Changing a graph: inserting nodes and constants, replacing values, dropping what nothing reads."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from qvit_deploy.graph.query import Dim, dims

Attribute = int | float | str | Sequence[int]


def emit(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    shape: Sequence[Dim],
    attributes: dict[str, Attribute] | None = None,
    dtype: ir.DataType = ir.DataType.FLOAT,
    origin: ir.Node | None = None,
) -> ir.Value:
    """Inserts one node in front of `before` and returns its output.

    The node inherits name and metadata of `origin` (default: `before`): module scopes live there, and
    `canonicalize.names` reads them, and makes value names unique at the end.
    """
    source = origin or before
    node = ir.node(op_type, inputs, attributes, name=source.name, metadata_props=dict(source.metadata_props))
    output = node.outputs[0]
    output.shape = ir.Shape(shape)
    output.dtype = dtype
    graph = before.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(before, node)
    if output.name in graph.initializers:  # onnx_ir counts names up without looking at constants
        output.name = free_value_name(graph, str(output.name))
    return output


def free_name(name: str, used: Container[str], separator: str = ".") -> str:
    """Returns `name`, or `name.1`, `name.2`... when that is used."""
    candidate, count = name, 0
    while candidate in used:
        count += 1
        candidate = f"{name}{separator}{count}"
    return candidate


def value_names(graph: ir.Graph) -> set[str]:
    """Returns the names of all values of a graph: inputs, constants and results of nodes."""
    values = [*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)]
    return {value.name for value in values if value.name}


def free_value_name(graph: ir.Graph, name: str) -> str:
    """Returns `name`, or `name.1`, `name.2`... when a value of the graph has it.

    Models may use any name, those that we make up too, so a name that is made up has to be asked for here.
    """
    return free_name(name, value_names(graph))


def free_node_name(graph: ir.Graph, name: str) -> str:
    """Returns `name`, or `name.1`, `name.2`... when a node of the graph has it."""
    return free_name(name, {node.name for node in graph if node.name})


def add_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Registers `array` as an initializer called `name`, or `name.1`, `name.2`... when that is used."""
    return register_constant(graph, free_value_name(graph, name), array)


def register_constant(graph: ir.Graph, unique: str, array: np.ndarray) -> ir.Value:
    """Registers `array` as an initializer under a name that no value of the graph has.

    Whoever adds many constants keeps count of the names, where `add_constant` reads them off the graph each time.
    """
    tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def shared_constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Returns an initializer that holds `array`: the first of `name`, `name.1`, `name.2`... that does, or a new one.

    A name alone proves nothing: the model may have a constant of its own that is called so.
    """
    candidate, count = name, 0
    while (known := graph.initializers.get(candidate)) is not None:
        tensor = known.const_value
        if tensor is not None and _holds(tensor, array):
            return known
        count += 1
        candidate = f"{name}.{count}"
    return add_constant(graph, name, array)


def _holds(tensor: ir.TensorProtocol, array: np.ndarray) -> bool:
    """Tells whether a tensor has the type, the shape and the values of `array`, bit for bit."""
    if tuple(tensor.shape.numpy()) != array.shape or tensor.dtype != ir.DataType.from_numpy(array.dtype):
        return False
    return tensor.numpy().tobytes() == array.tobytes()


def add_ints(graph: ir.Graph, numbers: Sequence[int]) -> ir.Value:
    """Returns an int64 vector constant; one initializer serves every node that needs the same numbers."""
    return shared_constant(graph, "ints_" + "_".join(str(n) for n in numbers), np.asarray(numbers, dtype=np.int64))


def add_index(graph: ir.Graph, index: int) -> ir.Value:
    """Returns an int64 scalar constant, shared like the vectors of `add_ints`."""
    return shared_constant(graph, f"index_{index}", np.asarray(index, dtype=np.int64))


def shape_constant(graph: ir.Graph, shape: Sequence[Dim]) -> ir.Value | None:
    """Returns the target of a Reshape: ints as they are, the one symbolic dimension as -1; None when two are
    symbolic."""
    if sum(not isinstance(d, int) for d in shape) > 1:
        return None
    return add_ints(graph, [d if isinstance(d, int) else -1 for d in shape])


def replace(old: ir.Value, new: ir.Value) -> None:
    """Lets everything that read `old`, graph outputs included, read `new`.

    A graph output must be made by a node and be listed once, so where `new` cannot take that place an
    Identity stands in.
    """
    if old.is_graph_output() and (new.producer() is None or new.is_graph_output()):
        node = old.producer()
        assert node is not None and old.shape is not None
        new = emit(node, "Identity", [new], dims(old), dtype=old.dtype or ir.DataType.FLOAT)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def detach_constants(model: ir.Model) -> None:
    """Gives every initializer a tensor of its own over the same numbers.

    A value renames its tensor along with itself; without this, renaming would reach into the protobuf or the
    graph the model was made from.
    """
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)


def remove_unused(model: ir.Model) -> None:
    """Drops nodes and initializers nothing reads, and optional outputs and trailing absent inputs of those that stay.

    Bodies of local functions stay as they were written: a plugin and its body are released together.
    """
    RemoveUnusedNodesPass()(ir.Model(model.graph, ir_version=model.ir_version))
