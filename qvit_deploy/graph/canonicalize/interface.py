"""Inputs and outputs have one form: one float32 image input, and the outputs that the model has, by their names.

Rules, in order:
1. an output that is an input becomes the result of an Identity; one that is a constant is refused;
2. exactly one input remains once initializers are not counted, of rank 4 with known channels, height, width;
3. it is called `image`, unless an output is, and its batch dimension `batch` when it is not a number;
4. outputs have their names, their order and their shapes in the end.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.edit import free_value_name
from qvit_deploy.graph.interface import IMAGE, Interface

BATCH = "batch"


def output_names(model: ir.Model) -> list[str]:
    """Applies rule 1 and returns the names of the outputs, to give back to them with `set_output_names`.

    Raises:
        InputError: there is no output, or one is a constant.
    """
    outputs = model.graph.outputs
    names = [str(value.name) for value in outputs]
    if not names:
        raise InputError("the model has no outputs")
    for index, value in enumerate(list(outputs)):
        if value.is_initializer():
            raise InputError(
                f"output {value.name!r} is a constant of the model; it needs no network, export the model without it"
            )
        if value.producer() is None:
            outputs[index] = _passed_on(model.graph, value)
    return names


def check_interface(model: ir.Model) -> None:
    """Enforces rules 2 and 3. Raises InputError."""
    shape = Interface.of(model).image.shape
    image = model.graph.inputs[0]
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else BATCH
    outputs = {value.name for value in model.graph.outputs}
    name = image.name if IMAGE in outputs and image.name not in outputs else IMAGE
    if name not in outputs:
        _free_name(model, str(name), keep=image)
        image.name = name
    image.shape = ir.Shape([batch, *shape[1:]])


def set_output_names(model: ir.Model, names: list[str]) -> None:
    """Applies rule 4, after the rewrites replaced the nodes behind the outputs."""
    for value, name in zip(model.graph.outputs, names, strict=True):
        _free_name(model, name, keep=value)
        value.name = name


def _passed_on(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Returns `value`, an input, as the result of a node."""
    node = ir.node("Identity", [value], name=f"{value.name}/Identity")
    output = node.outputs[0]
    output.name = free_value_name(graph, f"{value.name}.output")
    output.shape, output.type = value.shape, value.type
    graph.append(node)
    return output


def _free_name(model: ir.Model, name: str, keep: ir.Value) -> None:
    """Renames whatever else is called `name`."""
    graph = model.graph
    initializer = graph.initializers.get(name)
    others = [initializer] if initializer is not None else []
    others += [value for value in (*graph.inputs, *(o for n in graph for o in n.outputs)) if value.name == name]
    for other in others:
        if other is not keep:
            other.name = free_value_name(graph, f"{name}_inner")
