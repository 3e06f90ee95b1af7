"""Inputs and outputs have one form: those that the model has, by their names, but for the image input.

Rules, in order:
1. an output that is an input becomes the result of an Identity; one that is a constant is refused;
2. the sizes of inputs are known, but for that of the batch, which is one number or `batch` for all that have one;
3. the image input is called `image`, unless an output is; `take_given_name` says what it was called;
4. outputs have their names, their order and their shapes in the end.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.edit import free_value_name
from qvit_deploy.graph.interface import IMAGE, Interface, require_known

BATCH = "batch"
_GIVEN_NAME = "qvit-deploy/image"


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
    interface = Interface.of(model)
    if not interface.inputs:
        raise InputError("the model has no inputs")
    for described in interface.inputs:
        if described.dtype is None:
            raise InputError(f"input {described.name!r} has no element type; export the model again")
        require_known(described)
    set_batch(model, interface.static_batch or BATCH)
    image = interface.image
    outputs = {value.name for value in model.graph.outputs}
    if image is not None:
        value = model.graph.inputs[interface.inputs.index(image)]
        name = value.name if IMAGE in outputs and value.name not in outputs else IMAGE
        if name not in outputs:
            if name != image.name:
                model.metadata_props[_GIVEN_NAME] = image.name
            _free_name(model, str(name), keep=value)
            value.name = name


def take_given_name(model: ir.Model) -> str | None:
    """Returns what the image input was called before rule 3, None if it kept its name, and removes the note of it."""
    return model.metadata_props.pop(_GIVEN_NAME, None)


def set_batch(model: ir.Model, batch: int | str) -> None:
    """Writes how many examples the inputs of a model take at a time."""
    for value, described in zip(model.graph.inputs, Interface.of(model).inputs, strict=True):
        if described.batch_axis is not None:
            value.shape = ir.Shape([batch, *described.shape[1:]])


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
