"""Any supported opset -> operators of opset 21, one flat graph.

Rules, in order:
1. local functions are inlined, and what nothing reads is dropped;
2. operators that cannot be compiled are refused, all at once (`supported.py`);
3. operators younger than opset 21 that have a function body in the ONNX schema (Attention,
   RMSNormalization, RotaryEmbedding, Swish) are replaced by that body;
4. opset < 18, and operators whose meaning changed in 18..21, go through onnx's version converter; it does not see
   operators that the file's opset does not have (ONNX Runtime writes LayerNormalization into files of any opset) and
   GroupNormalization; what it leaves to us is in `old_meanings.py`;
5. otherwise between 18 and 25 only the accepted element types changed, so the number is set to 21 once every
   attribute in use is known to the opset-21 schema;
6. fused operators of ONNX Runtime are expanded (`fused.py`);
7. Constant nodes become initializers.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

from qvit_deploy.errors import InputError, UnsupportedOpError
from qvit_deploy.graph.canonicalize.rewrites.fused import expand_fused, fused_operator
from qvit_deploy.graph.canonicalize.rewrites.old_meanings import after_conversion, before_conversion
from qvit_deploy.graph.canonicalize.rewrites.supported import require_supported
from qvit_deploy.graph.edit import remove_unused
from qvit_deploy.graph.graph import CANONICAL_OPSET
from qvit_deploy.graph.op_traits import REDEFINED
from qvit_deploy.graph.supported import STANDARD

OLDEST_OPSET, NEWEST_OPSET = 7, 25
# Weights stay out of the protobuf that onnx's C++ passes copy; shapes and small constants must stay in.
_LARGE_BYTES = 1024


def to_canonical_opset(model: ir.Model) -> ir.Model:
    """Returns `model` at opset 21 without functions, fused operators and Constant nodes. Raises InputError."""
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if version is None or not OLDEST_OPSET <= version <= NEWEST_OPSET:
        raise InputError(
            f"the model uses opset {version}; export it with an opset from {OLDEST_OPSET} to {NEWEST_OPSET}"
        )
    common.RemoveInitializersFromInputsPass()(model)
    model.ir_version = 10  # before 4 initializers had to be inputs, and onnx's version converter insists on it
    if model.functions:
        common.InlinePass()(model)
    remove_unused(model)
    require_supported(model)
    before_conversion(model, version)
    if any(_is_younger(node, version) for node in model.graph):
        model = _inline_schema_functions(model, version)
    changed = any(node.op_type in REDEFINED for node in model.graph)
    if version < 18 or (changed and version < CANONICAL_OPSET):
        hidden = _hide(model, version)
        model = _through_proto(model, lambda proto: _converted(proto, version))
        _show(model, hidden)
    after_conversion(model, version)
    for node in model.graph.all_nodes():
        _require_known(node)
    expand_fused(model)
    model.opset_imports.clear()
    model.opset_imports[""] = CANONICAL_OPSET
    model.graph.opset_imports.clear()
    model.graph.opset_imports[""] = CANONICAL_OPSET
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


def _converted(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(proto, CANONICAL_OPSET)
    except Exception as error:  # ConvertError, RuntimeError and others, by operator
        reason = str(error).strip().splitlines()[-1].rpartition(" failed: ")[2]
        raise InputError(
            f"the model's opset {version} cannot be converted to opset {CANONICAL_OPSET} ({reason}); "
            "export the model with opset 17 or newer"
        ) from error


_HIDDEN = "qvit_deploy.hidden"
"""A domain that onnx's version converter does not know, so that it leaves its operators alone."""


def _hide(model: ir.Model, version: int) -> str:
    """Moves operators that the converter must not see out of the standard domain; returns that domain's name."""
    for node in model.graph.all_nodes():
        if node.domain in STANDARD and (
            node.op_type == "GroupNormalization" or not onnx.defs.has(node.op_type, version)
        ):
            node.domain = _HIDDEN
    model.graph.opset_imports[_HIDDEN] = 1
    return _HIDDEN


def _show(model: ir.Model, hidden: str) -> None:
    for node in model.graph.all_nodes():
        if node.domain == hidden:
            node.domain = ""


def _is_younger(node: ir.Node, version: int) -> bool:
    return (
        onnx.defs.has(node.op_type, version)
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
    if fused_operator(node) is not None:
        return
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
