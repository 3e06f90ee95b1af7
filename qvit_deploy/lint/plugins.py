"""Rules on operators outside the standard: contrib operators, plugins and functions that stand in for them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from qvit_deploy.graph.op_traits import INTEGER_OPERATORS
from qvit_deploy.lint.finding import ONNXRUNTIME, TENSORRT, Hit, Rule
from qvit_deploy.lint.structure import NOT_PARSED
from qvit_deploy.lint.tensorrt_versions import PLUGIN_WINS
from qvit_deploy.lint.view import View, text

_QONNX = ("qonnx", "onnx.brevitas", "finn")
_RUNTIME_DOMAINS = frozenset(
    {
        "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc",
        "com.microsoft.experimental", "com.ms.internal.nhwc", "org.pytorch.aten",
    }
)  # fmt: skip
_SHAPE_INPUTS = "tensorrt_plugin_shape_input_indices"
_SHAPE_INPUTS_SINCE = (10, 1)


def _is_contrib(node: ir.Node) -> bool:
    return node.domain.startswith(("com.microsoft", "com.ms.", "org.pytorch"))


def _is_qonnx(node: ir.Node) -> bool:
    return node.domain.startswith(_QONNX)


def _parsed_by_name(node: ir.Node) -> bool:
    return onnx.defs.has(node.op_type) and node.op_type not in NOT_PARSED


def _declares_plugin(node: ir.Node) -> bool:
    return "plugin_namespace" in node.attributes or "plugin_version" in node.attributes


def _contrib(view: View) -> Iterator[Hit]:
    for node in view.custom():
        if _is_contrib(node) and not _parsed_by_name(node) and view.body(node) is None:
            yield node, f"{node.domain}::{node.op_type}"


def _by_name(view: View) -> Iterator[Hit]:
    for node in view.custom():
        if not _is_qonnx(node) and _parsed_by_name(node) and view.body(node) is None and not _declares_plugin(node):
            yield node, f"{node.domain}::{node.op_type} is read as the standard {node.op_type}"


def _qonnx(view: View) -> Iterator[Hit]:
    for node in view.custom():
        if _is_qonnx(node):
            yield node, f"{node.domain}::{node.op_type}"


def _integer_operators(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        if node.op_type in INTEGER_OPERATORS and not _is_contrib(node):
            yield node, node.op_type


def _undeclared(view: View) -> Iterator[Hit]:
    for node in _custom_operators(view):
        if not _declares_plugin(node) and view.body(node) is None and not _parsed_by_name(node):
            yield node, f"{node.domain}::{node.op_type} has no function body and names no plugin"


def _custom_operators(view: View) -> Iterator[ir.Node]:
    return (n for n in view.custom() if not _is_contrib(n) and not _is_qonnx(n))


def _plugin_on_rtx(view: View) -> Iterator[Hit]:
    for node in _custom_operators(view):
        if _declares_plugin(node) and view.body(node) is None:
            yield node, f"{node.domain}::{node.op_type} is a plugin without a function body"


def _needs_library(view: View) -> Iterator[Hit]:
    for node in _custom_operators(view):
        if _declares_plugin(node):
            yield node, f"plugin {node.op_type}, version {text(node, 'plugin_version') or 1}"


def _body_wins(view: View) -> Iterator[Hit]:
    for node in _custom_operators(view):
        if _declares_plugin(node) and view.body(node) is not None and view.version < PLUGIN_WINS:
            yield node, f"TensorRT {view.version[0]}.{view.version[1]} runs the function, not the plugin"


def _namespace(view: View) -> Iterator[Hit]:
    for node in _custom_operators(view):
        namespace = text(node, "plugin_namespace") or ""
        if _declares_plugin(node) and namespace != node.domain:
            yield node, f"plugin_namespace is {namespace!r}, the domain {node.domain!r}"


def _no_version(view: View) -> Iterator[Hit]:
    for node in _custom_operators(view):
        if "plugin_namespace" in node.attributes and not text(node, "plugin_version"):
            yield node, "no plugin_version"


def _shape_inputs(view: View) -> Iterator[Hit]:
    for node in view.nodes:
        attribute = node.attributes.get(_SHAPE_INPUTS)
        if attribute is None:
            continue
        indices = attribute.value if attribute.type == ir.AttributeType.INTS else None
        if indices is None:
            yield node, f"{_SHAPE_INPUTS} is not a list of integers"
        elif any(not 0 <= i < len(node.inputs) for i in indices):
            yield node, f"{_SHAPE_INPUTS} {list(indices)} for {len(node.inputs)} inputs"
        elif view.version < _SHAPE_INPUTS_SINCE:
            yield node, f"TensorRT {view.version[0]}.{view.version[1]} does not know {_SHAPE_INPUTS}"


def _unknown_to_runtime(view: View) -> Iterator[Hit]:
    for node in view.custom():
        if node.domain not in _RUNTIME_DOMAINS and view.body(node) is None:
            yield node, f"{node.domain}::{node.op_type} has no function body"


RULES = (
    Rule("TRT601", "error", TENSORRT, "An operator of ONNX Runtime's own",
         "Fused contrib operators (SkipLayerNormalization, FusedMatMul, MatMulNBits, ...) exist in ONNX Runtime only.",
         "Give TensorRT the graph before ONNX Runtime's optimizer: no optimized_model_filepath, no transformers "
         "optimizer.",
         "parser", _contrib),
    Rule("TRT602", "warning", TENSORRT, "An operator of another domain with a standard operator's name",
         "TensorRT's parser ignores the domain and reads it as the standard operator; what differs is lost in silence.",
         "Use the standard operator of the default domain.",
         "parser", _by_name),
    Rule("TRT603", "error", TENSORRT, "A QONNX or Brevitas quantizer",
         "TensorRT's parser refuses them.",
         "Export QCDQ instead: QuantizeLinear, Clip, DequantizeLinear.",
         "parser", _qonnx),
    Rule("TRT604", "error", TENSORRT, "An integer operator instead of a Q/DQ pair",
         "TensorRT's parser refuses MatMulInteger, QLinearMatMul, DynamicQuantizeLinear and their kin.",
         "Export QDQ (quant_format=QuantFormat.QDQ, quantize_static instead of quantize_dynamic).",
         "parser", _integer_operators),
    Rule("TRT605", "error", TENSORRT, "A custom operator that nothing defines",
         "TensorRT's parser looks for a plugin of that name and refuses the file.",
         "Give the node plugin_namespace and plugin_version and load the library, or give it a function body.",
         "parser", _undeclared),
    Rule("TRT606", "warning", ("tensorrt",), "A plugin whose function body wins",
         "Before TensorRT 10.7 the parser inlines the function and never looks for the plugin: correct but slow.",
         "Strip the function for JetPack 6 (TensorRT 10.3), and look for the plugin in the layer information.",
         "documentation", _body_wins),
    Rule("TRT607", "warning", TENSORRT, "plugin_namespace differs from the domain",
         "The parser reads plugin_namespace, and from 10.10 on also tries the domain: which plugin is found depends on "
         "the version.",
         "Set both to the same string.",
         "documentation", _namespace),
    Rule("TRT608", "error", TENSORRT, "tensorrt_plugin_shape_input_indices cannot be followed",
         "It lists the inputs that a plugin reads as shapes, from TensorRT 10.1 on.",
         "List indices of the node's own inputs, or take it away.",
         "documentation", _shape_inputs),
    Rule("TRT609", "note", TENSORRT, "A plugin without plugin_version",
         'The parser asks the registry for version "1".',
         "Write the version down.",
         "documentation", _no_version),
    Rule("TRT610", "note", ("tensorrt",), "A plugin library is needed",
         "Building and running need the library that registers it.",
         "Load it before parsing (trtexec --staticPlugins or --dynamicPlugins).",
         "documentation", _needs_library),
    Rule("RTX601", "error", ("tensorrt-rtx",), "A plugin without a function body",
         "TensorRT-RTX has no plugins: the file is refused, or the process ends when one is registered.",
         "Give the operator a function body, or use the target tensorrt.",
         "parser", _plugin_on_rtx),
    Rule("ORT601", "error", ONNXRUNTIME, "A custom operator that ONNX Runtime does not know",
         "The session is refused unless a custom operator library is registered.",
         "Give the operator a function body.",
         "measured", _unknown_to_runtime),
)  # fmt: skip
