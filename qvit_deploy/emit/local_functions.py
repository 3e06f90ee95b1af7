"""Local functions of ONNX files, for runtimes that do not take them as they are: inlined, or without their bodies."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

DOMAIN = "qvit"
"""Domain of our operators and namespace of their plugins: TensorRT looks a plugin up under either."""

LAYER_NORM = "LayerNormQuantize"
"""What begins the names of the operators whose result is codes (`targets.tensorrt.packed.norm`)."""

_NAMESPACE, _VERSION = "plugin_namespace", "plugin_version"
"""Attributes by which a node says that a plugin runs it, and a function that its callers do."""


def inlined(model: bytes) -> bytes:
    """Returns the file with the functions' nodes in place of every call, each under a name of its own: TensorRT-RTX
    refuses two layers of one name, which is what calling a function twice comes to. A file without functions, or that
    is no ONNX, comes back as it is."""
    proto = _read(model)
    if proto is None or not proto.functions:
        return model
    return ir.to_proto(inline(ir.from_proto(proto))).SerializeToString(deterministic=True)


def inline(model: ir.Model) -> ir.Model:
    """Puts its functions' nodes in place of every call in `model`, and returns it. The metadata of a call goes to each
    of its nodes."""
    domains = {domain for domain, _, _ in model.functions}
    InlinePass()(model)
    for domain in domains - {node.domain for node in model.graph.all_nodes()}:
        model.opset_imports.pop(domain, None)
    return model


def without_plugin_bodies(model: bytes) -> bytes:
    """Returns the file without the bodies of operators that a plugin runs, which a runtime might prefer to the plugin.
    One that has none comes back as it is."""
    proto = _read(model)
    standard = [] if proto is None else [f for f in proto.functions if _NAMESPACE not in f.attribute]
    if proto is None or len(standard) == len(proto.functions):
        return model
    del proto.functions[:]
    proto.functions.extend(standard)
    return proto.SerializeToString(deterministic=True)


def writes_codes(node: ir.Node) -> bool:
    """Tells whether a node is an operator of ours that makes codes for others, and no product."""
    return node.domain == DOMAIN and node.op_type.startswith(LAYER_NORM)


def plugin_operators(model: bytes) -> tuple[str, ...]:
    """Returns the operators whose nodes name a plugin, as namespace::name:version, sorted."""
    operators = set()
    proto = _read(model)
    for node in () if proto is None else proto.graph.node:
        given = {a.name: a.s.decode(errors="replace") for a in node.attribute if a.name in (_NAMESPACE, _VERSION)}
        if given.get(_NAMESPACE):
            operators.add(f"{given[_NAMESPACE]}::{node.op_type}:{given.get(_VERSION) or 1}")
    return tuple(sorted(operators))


def _read(model: bytes) -> onnx.ModelProto | None:
    try:
        return onnx.load_from_string(model)
    except Exception:  # protobuf raises its own types; what the runtime's parser says of the file is for the user
        return None
