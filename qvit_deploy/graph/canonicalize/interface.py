"""Inputs and outputs have one form: one float32 image input called `image`, and named outputs.

Rules, in order:
1. exactly one input remains once initializers are not counted, of rank 4 with known channels, height, width;
2. it is called `image`, its batch dimension `batch` when it is not a number;
3. a single output is called `logits`; several keep their names.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import IMAGE, Interface

OUTPUT_NAME, BATCH = "logits", "batch"


def check_interface(model: ir.Model) -> None:
    """Enforces rules 1 and 2. Raises InputError."""
    shape = Interface.of(model).image.shape
    if not model.graph.outputs:
        raise InputError("the model has no outputs")
    image = model.graph.inputs[0]
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else BATCH
    _free_name(model, IMAGE, keep=image)
    image.name = IMAGE
    image.shape = ir.Shape([batch, *shape[1:]])


def output_names(model: ir.Model) -> list[str]:
    """Names of the outputs, to give back to them with `set_output_names` when rewrites are done."""
    names = [str(value.name) for value in model.graph.outputs]
    return names if len(names) > 1 else [OUTPUT_NAME]


def set_output_names(model: ir.Model, names: list[str]) -> None:
    """Applies rule 3, after the rewrites replaced the nodes behind the outputs."""
    for value, name in zip(model.graph.outputs, names, strict=True):
        _free_name(model, name, keep=value)
        value.name = name


def _free_name(model: ir.Model, name: str, keep: ir.Value) -> None:
    """Renames whatever else is called `name`."""
    graph = model.graph
    initializer = graph.initializers.get(name)
    others = [initializer] if initializer is not None else []
    others += [out for node in graph for out in node.outputs if out.name == name]
    for other in others:
        if other is not keep:
            other.name = f"{name}_inner"
