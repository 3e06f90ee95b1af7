"""The model's mouth: one float32 image input called `image`, and named outputs.

Rules, in order:
1. exactly one input remains once initializers are not counted, of rank 4 with known channels, height, width;
2. it is called `image`, its batch dimension `batch` when it is not a number;
3. a single output is called `logits`; several keep their names.
"""

from __future__ import annotations

import onnx_ir as ir

from qvit_deploy.errors import InputError

INPUT_NAME, OUTPUT_NAME, BATCH = "image", "logits", "batch"


def check_interface(model: ir.Model) -> None:
    """Enforce rules 1 and 2. Raises InputError."""
    inputs = list(model.graph.inputs)
    if len(inputs) != 1:
        names = ", ".join(str(value.name) for value in inputs) or "none"
        raise InputError(f"the model must have one image input, this one has {len(inputs)} ({names})")
    image = inputs[0]
    shape = list(image.shape) if image.shape is not None else []
    described = f"input {image.name!r} has shape {[str(d) for d in shape]}"
    if len(shape) != 4:
        raise InputError(f"{described}; an image input has four dimensions [batch, channels, height, width]")
    if image.dtype != ir.DataType.FLOAT:
        raise InputError(f"input {image.name!r} is {image.dtype}; export the model with a float image input")
    if not all(isinstance(d, int) and d > 0 for d in shape[1:]):
        raise InputError(f"{described}; export it with fixed channels, height and width (only the batch may vary)")
    if shape[3] in (1, 3) and shape[1] not in (1, 3):
        raise InputError(f"{described}: channels come last; export it with channels first")
    if not model.graph.outputs:
        raise InputError("the model has no outputs")
    batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else BATCH
    _free_name(model, INPUT_NAME, keep=image)
    image.name = INPUT_NAME
    image.shape = ir.Shape([batch, *shape[1:]])


def output_names(model: ir.Model) -> list[str]:
    """Names of the outputs, to give back to them with `set_output_names` when rewrites are done."""
    names = [str(value.name) for value in model.graph.outputs]
    return names if len(names) > 1 else [OUTPUT_NAME]


def set_output_names(model: ir.Model, names: list[str]) -> None:
    """Rule 3, after the rewrites replaced the nodes behind the outputs."""
    for value, name in zip(model.graph.outputs, names, strict=True):
        _free_name(model, name, keep=value)
        value.name = name


def _free_name(model: ir.Model, name: str, keep: ir.Value) -> None:
    """Rename whatever else is called `name`."""
    graph = model.graph
    taken = graph.initializers.get(name)
    others = [taken] if taken is not None else []
    others += [out for node in graph for out in node.outputs if out.name == name]
    for other in others:
        if other is not keep:
            other.name = f"{name}_inner"
