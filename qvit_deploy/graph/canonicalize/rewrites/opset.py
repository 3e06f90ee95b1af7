"""Any supported opset -> operators of opset 21, one flat graph.

Rules, in order:
1. operators outside the default domain that are not local functions are refused;
2. local functions are inlined;
3. operators younger than opset 21 that have a function body in the ONNX schema (Attention,
   RMSNormalization, RotaryEmbedding, Swish) are replaced by that body;
4. opset < 18, and the three operators whose meaning changed in 18..21, go through onnx's version converter;
5. otherwise between 18 and 25 only the accepted element types changed, so the number is set to 21 once every
   attribute in use is known to the opset-21 schema;
6. Constant nodes become initializers.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

from qvit_deploy.errors import InputError, UnsupportedOpError
from qvit_deploy.graph.graph import CANONICAL_OPSET
from qvit_deploy.graph.op_traits import REDEFINED

OLDEST_OPSET, NEWEST_OPSET = 13, 25
# Weights stay out of the protobuf that onnx's C++ passes copy; shapes and small constants must stay in.
_LARGE_BYTES = 1024


def to_canonical_opset(model: ir.Model) -> ir.Model:
    """Returns `model` at opset 21 without functions and Constant nodes. Raises InputError, UnsupportedOpError."""
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if version is None or not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise InputError(
            f"the model uses opset {version}; export it with an opset from {OLDEST_OPSET} to {NEWEST_OPSET}"
        )
    _refuse_foreign_operators(model)
    common.RemoveInitializersFromInputsPass()(model)
    if model.functions:
        common.InlinePass()(model)
    if any(_is_younger(node, version) for node in model.graph):
        model = _inline_schema_functions(model, version)
    changed = any(node.op_type in REDEFINED for node in model.graph)
    if version < 18 or (changed and version < CANONICAL_OPSET):
        model = _through_proto(model, lambda proto: onnx.version_converter.convert_version(proto, CANONICAL_OPSET))
    for node in model.graph.all_nodes():
        _require_known(node)
    model.opset_imports.clear()
    model.opset_imports[""] = CANONICAL_OPSET
    model.graph.opset_imports.clear()
    model.graph.opset_imports[""] = CANONICAL_OPSET
    model.ir_version = 10
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


def _refuse_foreign_operators(model: ir.Model) -> None:
    local = {(function.domain, function.name) for function in model.functions.values()}
    bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for node in (node for body in bodies for node in body.all_nodes()):
        if node.domain in ("", "ai.onnx") or (node.domain, node.op_type) in local:
            continue
        raise UnsupportedOpError(
            f"{node.domain}.{node.op_type}",
            node.name or "",
            "only standard ONNX operators can be compiled; export the model without custom operators "
            "or graph optimisations",
        )


def _is_younger(node: ir.Node, version: int) -> bool:
    return (
        onnx.defs.has(node.op_type)
        and _since(node.op_type, version) > CANONICAL_OPSET
        and not onnx.defs.has(node.op_type, CANONICAL_OPSET)
    )


def _since(op_type: str, version: int) -> int:
    return int(onnx.defs.get_schema(op_type, version).since_version)


def _inline_schema_functions(model: ir.Model, version: int) -> ir.Model:
    younger = [node for node in model.graph if _is_younger(node, version)]
    operators = sorted({node.op_type for node in younger})
    for call in younger:  # onnx's inliner leaves a hole where the body refers to an attribute nobody wrote
        for name, attribute in onnx.defs.get_schema(call.op_type, version).attributes.items():
            if name not in call.attributes and attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
                call.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)
    outside = {value.name for node in model.graph for value in (*node.inputs, *node.outputs) if value is not None}
    inlined = _through_proto(
        model,
        lambda proto: onnx.inliner.inline_selected_functions(
            proto, [("", op) for op in operators], inline_schema_functions=True
        ),
    )
    producers = {out.name: node for node in inlined.graph for out in node.outputs}
    for call in younger:
        _hand_down_name(call, producers, outside)
    return inlined


def _hand_down_name(call: ir.Node, producers: dict[str | None, ir.Node], outside: set[str | None]) -> None:
    """Gives the nodes of an inlined body the name and the module scope of the node they replace."""
    waiting = [producers[out.name] for out in call.outputs if out.name in producers]
    while waiting:
        node = waiting.pop()
        if node.name == call.name:
            continue
        node.name = call.name
        node.metadata_props.update(call.metadata_props)
        names = [value.name for value in node.inputs if value is not None]
        waiting += [producers[name] for name in names if name not in outside and name in producers]


def _require_known(node: ir.Node) -> None:
    if not onnx.defs.has(node.op_type, CANONICAL_OPSET):
        raise UnsupportedOpError(
            node.op_type, node.name or "", f"it does not exist in opset {CANONICAL_OPSET} and has no expansion"
        )
    schema = onnx.defs.get_schema(node.op_type, CANONICAL_OPSET).attributes
    for attribute in node.attributes:
        if attribute not in schema:
            raise UnsupportedOpError(
                node.op_type, node.name or "", f"its attribute {attribute!r} is newer than opset {CANONICAL_OPSET}"
            )


def _through_proto(model: ir.Model, transform: Callable[[onnx.ModelProto], onnx.ModelProto]) -> ir.Model:
    """Applies a function on protobufs while the large weights wait outside, declared as graph inputs."""
    graph = model.graph
    waiting = {
        name: value
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > _LARGE_BYTES
    }
    inputs = {value.name for value in graph.inputs}
    for name, value in waiting.items():
        assert value.const_value is not None
        value.shape, value.dtype = ir.Shape(value.const_value.shape.numpy()), value.const_value.dtype
        del graph.initializers[name]
        graph.inputs.append(value)
    converted = ir.from_proto(transform(ir.to_proto(model)))
    for value in list(converted.graph.inputs):
        if value.name not in inputs and value.name in waiting:
            converted.graph.inputs.remove(value)
            value.const_value = waiting[value.name].const_value
            converted.graph.register_initializer(value)
    common.RemoveInitializersFromInputsPass()(converted)
    return converted
