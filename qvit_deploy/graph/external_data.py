"""Weights in files next to a model. A model is untrusted: its external data could name any file on the machine."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir


def problem(tensor: ir.ExternalTensor) -> str | None:
    """Says why the data of a tensor cannot be read; None when it lies in the model's folder and is long enough."""
    location = str(tensor.location)
    if "\0" in location:
        return f"weight {tensor.name!r} lies in a file whose name is damaged ({location!r})"
    folder = Path(tensor.base_dir).resolve()
    target = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
        return f"weight {tensor.name!r} points outside the model's folder ({location!r})"
    if not target.is_file():
        return f"weight file {location!r} is missing; keep it beside the .onnx file"
    offset, length = tensor.offset or 0, tensor.nbytes if tensor.length is None else tensor.length
    if length < tensor.nbytes:
        return f"weight {tensor.name!r} needs {tensor.nbytes} bytes of {location!r}, and the model names {length}"
    if offset < 0 or length < 0 or offset + length > target.stat().st_size:
        return f"weight file {location!r} is truncated (weight {tensor.name!r} ends past it)"
    return None


def tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    """Returns every tensor of the model whose data lies in another file."""
    values: list[object] = []
    for graph in model.graphs():
        values += [value.const_value for value in graph.initializers.values()]
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for node in (node for scope in scopes for node in scope.all_nodes()):
        values += [a.value for a in node.attributes.values() if a.type == ir.AttributeType.TENSOR]
    return [tensor for tensor in values if isinstance(tensor, ir.ExternalTensor)]
