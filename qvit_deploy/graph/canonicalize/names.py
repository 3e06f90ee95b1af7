"""Readable names: of nodes from the module they come from, of weights from the node that reads them.

Rules, in order:
1. a node is called "module.path/OpType"; the path is the innermost module in the scopes torch's dynamo
   exporter records, or is read off a TorchScript name like "/blocks/blocks.0/attn/qkv/MatMul";
2. the weight and bias of a Linear, Conv or LayerNormalization keep a parameter's name ("...weight", "...bias")
   and otherwise are called "module.path.weight" and "module.path.bias", or after each other;
3. a constant that only has an exporter's counter for a name is called after its first reader;
4. every node and value name is unique ("_1", "_2" appended in graph order).
"""

from __future__ import annotations

import ast
import re

import onnx_ir as ir

from qvit_deploy.graph.edit import free_name
from qvit_deploy.graph.graph import constant

_SCOPES = "pkg.torch.onnx.name_scopes"
_NAMELESS = re.compile(r"/|::|^(val|scalar_tensor|scalar_tensor_default|constant|const|_val)_?\d*(\.\d+)?$")


def set_names(model: ir.Model) -> None:
    """Applies the rules in place, the last rewrite but for the order of initializers."""
    graph = model.graph
    paths = {node: module_path(node) for node in graph}
    used: set[str] = set()
    for node in graph:
        path = paths[node]
        here = node.name or node.op_type if path is None else f"{path}/{node.op_type}".lstrip("/")
        node.name = _unique(here, used)
    _name_parameters(graph, paths)
    _name_other_constants(graph)
    names = {str(value.name) for value in (*graph.inputs, *graph.initializers.values(), *graph.outputs)}
    for node in graph:
        for i, output in enumerate(node.outputs):
            if not output.is_graph_output():
                output.name = _unique(f"{node.name}_out" if i == 0 else f"{node.name}_out{i}", names)


def sort_initializers(model: ir.Model) -> None:
    """Lists initializers in the order the graph reads them, so equal graphs are equal files."""
    graph = model.graph
    read = [v for node in graph for v in node.inputs if v is not None and v.is_initializer()]
    graph.initializers.clear()
    for value in dict.fromkeys(read):
        graph.register_initializer(value)


def module_path(node: ir.Node) -> str | None:
    """Returns the dotted path of the module `node` was traced in; None when nothing recorded it."""
    recorded = node.metadata_props.get(_SCOPES)
    if recorded is not None:
        scopes = [str(scope) for scope in ast.literal_eval(recorded)]
        return scopes[-2] if len(scopes) > 1 else ""
    if node.name is None or not node.name.startswith("/"):
        return None
    parts = node.name.strip("/").split("/")[:-1]
    # A container that is itself called shows up before its child: "blocks", "blocks.0".
    following = [*parts[1:], ""][: len(parts)]
    scopes = [a for a, b in zip(parts, following, strict=True) if not b.startswith(f"{a}.")]
    return ".".join(scopes)


def _name_parameters(graph: ir.Graph, paths: dict[ir.Node, str | None]) -> None:
    """Applies rule 2."""
    for node in graph:
        path = paths[node]
        if node.op_type in ("Conv", "LayerNormalization"):
            weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        elif node.op_type == "MatMul" and constant(node.inputs[1]) is not None:
            weight, bias = node.inputs[1], _bias_of(node)
        else:
            continue
        if weight is None or weight.const_value is None:
            continue
        if not _is_readable(weight, "weight"):
            stem = path or _stem(bias, "bias")
            if stem:
                _rename(graph, weight, f"{stem}.weight")
        stem = _stem(weight, "weight")
        if bias is not None and bias.const_value is not None and stem and _stem(bias, "bias") != stem:
            _rename(graph, bias, f"{stem}.bias")


def _name_other_constants(graph: ir.Graph) -> None:
    """Applies rule 3."""
    for value in list(graph.initializers.values()):
        name = str(value.name)
        if _NAMELESS.search(name) and value.uses():
            _rename(graph, value, f"{next(iter(value.uses())).node.name}/constant")


def _bias_of(matmul: ir.Node) -> ir.Value | None:
    for use in matmul.outputs[0].uses():
        if use.node.op_type == "Add" and use.idx == 0 and constant(use.node.inputs[1]) is not None:
            return use.node.inputs[1]
    return None


def _is_readable(value: ir.Value, kind: str) -> bool:
    name = str(value.name)
    return name.endswith((f".{kind}", f"_{kind}")) and "::" not in name and "/" not in name


def _stem(value: ir.Value | None, kind: str) -> str | None:
    if value is None or not _is_readable(value, kind):
        return None
    return str(value.name)[: -len(kind) - 1]


def _rename(graph: ir.Graph, value: ir.Value, name: str) -> None:
    named_values = (*graph.inputs, *graph.outputs, *graph.initializers.values())  # other values are named after this
    used = {str(v.name) for v in named_values if v is not value}
    value.name = free_name(name, used)


def _unique(name: str, used: set[str]) -> str:
    """Applies rule 4 and adds the name to `used`."""
    unique = free_name(name, used, separator="_")
    used.add(unique)
    return unique
