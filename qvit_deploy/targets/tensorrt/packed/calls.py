"""Puts nodes of our operators into a graph in place of the nodes whose work they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import onnx_ir as ir

from qvit_deploy.emit import names
from qvit_deploy.emit.local_functions import DOMAIN
from qvit_deploy.graph.edit import free_value_name
from qvit_deploy.targets.tensorrt.half.casts import WIDE, cast
from qvit_deploy.targets.tensorrt.half.keep_fp32 import FULL, HALF
from qvit_deploy.targets.tensorrt.packed.function_body import PLUGIN

RESULT = "packed"
"""Suffix of the name of an operator's float32 result that is cast to float16 under the plain name."""


def call(
    graph: ir.Graph,
    last: ir.Node,
    site: str,
    operator: str,
    inputs: list[ir.Value],
    attributes: Mapping[str, Any],
) -> ir.Value:
    """Replaces `last` by `operator` and returns the new result, which has the name, readers and type of the old one.

    The operator's own result has the type of its first input; where the graph has another, a Cast follows. Nodes that
    only `last` reads are left for `remove_unused`.
    """
    dtype = last.outputs[0].dtype or FULL
    node = ir.node(operator, inputs, {**attributes, **PLUGIN}, domain=DOMAIN, name=names.call(site))
    old, new = last.outputs[0], node.outputs[0]
    new.shape, new.type = old.shape, ir.TensorType(inputs[0].dtype or FULL)
    graph.insert_before(last, node)
    if new.dtype != dtype:
        new.name = free_value_name(graph, f"{old.name}.{RESULT}")
        new = cast(graph, new, dtype, f"{old.name}.narrowed")
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, old.name = old.name, f"{old.name}.qdq"
    return new


def declare(model: ir.Model, functions: Iterable[onnx.FunctionProto]) -> None:
    """Adds the bodies of operators that the model calls."""
    for proto in functions:
        function = ir.serde.deserialize_function(proto)
        model.functions[function.identifier()] = function
        model.opset_imports[DOMAIN] = 1


def before_widening(value: ir.Value | None) -> ir.Value:
    """Returns the float16 tensor of which `value` is a cast to float32, which changes no number; else `value`."""
    assert value is not None
    node = value.producer()
    if node is None or not _widens(node):
        return value
    assert node.inputs[0] is not None
    return node.inputs[0]


def widened(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Returns `value` as float32, through a Cast that is there already or a new one."""
    if value.dtype != HALF:
        return value
    wide = next((n.outputs[0] for n in value.consumers() if _widens(n)), None)
    return wide if wide is not None else cast(graph, value, FULL, f"{value.name}.{WIDE}")


def _widens(node: ir.Node) -> bool:
    x = node.inputs[0] if node.op_type == "Cast" else None
    return x is not None and x.dtype == HALF and node.outputs[0].dtype == FULL
