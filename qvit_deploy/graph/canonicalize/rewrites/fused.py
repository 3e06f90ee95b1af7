"""Operators that other operators say -> those operators; most are ONNX Runtime's own.

A file that ONNX Runtime saved after optimizing (`optimized_model_filepath`, `onnxruntime.transformers.optimizer`) holds
operators of the domain com.microsoft. `FUSED` has one row per operator: its expansion, in opset 21, and the uses of it
that have none. Semantics: ONNX Runtime's docs/ContribOperators.md. Rules:
1. activations (Gelu, FastGelu, BiasGelu, QuickGelu, BiasSplitGelu), sums (BiasAdd) and norms (those with "Layer" in
   their name, GroupNorm) are written out; a bias that a norm took from the linear layer in front of it goes back there;
2. FusedMatMul, FusedGemm, FusedConv, NhwcConv and NhwcFusedConv are product, factor, sum and activation; a transposed
   constant is transposed here, a transposed tensor, whose rank is not known yet, by an Einsum (`einsum.py`);
3. Attention and MultiHeadAttention are products, scale, additive bias and softmax by head; masks, caches and causal
   attention have no expansion;
4. com.microsoft's GridSample is the standard one by its new names;
5. MeanVarianceNormalization, a standard operator, is (x - mean) / (standard deviation + 1e-9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qvit_deploy.graph.canonicalize.rewrites.fused_attention import attention, multi_head_attention
from qvit_deploy.graph.canonicalize.rewrites.fused_call import Call
from qvit_deploy.graph.graph import constant

DOMAIN = "com.microsoft"
Expansion = Callable[[Call], "Sequence[ir.Value | None]"]


@dataclass(frozen=True)
class Fused:
    """How one fused operator is expanded.

    Attributes:
        expand: call -> the values of the outputs, None for those that are not computed.
        outputs: how many leading outputs are computed, or their indices.
        absent: index -> name of inputs that must not be given.
        only: attribute -> the one value (also its default) for which there is an expansion.
        constants: index -> name of inputs that must be constants.
    """

    expand: Expansion
    outputs: tuple[int, ...] = (0,)
    absent: Mapping[int, str] = field(default_factory=dict)
    only: Mapping[str, object] = field(default_factory=dict)
    constants: Mapping[int, str] = field(default_factory=dict)

    def refusal(self, node: ir.Node) -> str | None:
        """Returns why `node` has no expansion, or None when it has one."""
        given = {i for i, value in enumerate(node.inputs) if value is not None}
        for index, name in self.absent.items():
            if index in given:
                return f"its input {name!r} has no expansion into standard operators"
        for index, name in self.constants.items():
            if index in given and constant(node.inputs[index]) is None:
                return f"its input {name!r} is not a constant"
        for name, value in self.only.items():
            if name in node.attributes and node.attributes[name].value != value:
                return f"{name}={node.attributes[name].value!r} has no expansion into standard operators"
        for index, output in enumerate(node.outputs):
            if index not in self.outputs and (output.uses() or output.is_graph_output()):
                return f"its output {index} ({output.name!r}) has no expansion into standard operators"
        return None


_IN_STANDARD_DOMAIN = frozenset({"MeanVarianceNormalization", "SimplifiedLayerNormalization"})
"""The second is ONNX Runtime's own nevertheless."""


def fused_operator(node: ir.Node) -> Fused | None:
    """Returns the row of a node's operator, or None when it is none of ONNX Runtime's that are expanded."""
    if node.domain == DOMAIN or (node.domain == "" and node.op_type in _IN_STANDARD_DOMAIN):
        return FUSED.get(node.op_type)
    return None


def expand_fused(model: ir.Model) -> None:
    """Applies the rules in place to a model of opset 21 all of whose fused operators have an expansion."""
    for node in list(model.graph.all_nodes()):
        fused = fused_operator(node)
        if fused is None:
            continue
        assert fused.refusal(node) is None
        call = Call(node)
        call.put(*fused.expand(call))


def _gelu(call: Call) -> list[ir.Value]:
    x, bias = call.input(0), call.input(1)
    x = x if bias is None else call.op("Add", x, bias)
    return [call.op("Gelu", x, approximate="tanh" if call.node.op_type == "FastGelu" else "none")]


def _quick_gelu(call: Call) -> list[ir.Value]:
    x, alpha = call.input(0), call.attr("alpha", 1.702)
    inner = x if alpha == 1.0 else call.op("Mul", x, call.number(alpha))
    return [call.op("Mul", x, call.op("Sigmoid", inner))]


def _bias_split_gelu(call: Call) -> list[ir.Value]:
    halves = call.ops("Split", 2, call.op("Add", call.input(0), call.input(1)), axis=-1, num_outputs=2)
    return [call.op("Mul", halves[0], call.op("Gelu", halves[1]))]


def _bias_add(call: Call) -> list[ir.Value]:
    return [call.op("Add", call.op("Add", call.input(0), call.input(1)), call.input(2))]


def _skip_layer_norm(call: Call) -> list[ir.Value | None]:
    simplified = call.node.op_type == "SkipSimplifiedLayerNormalization"
    x, skip, scale = call.input(0), call.input(1), call.input(2)
    bias = call.input(3 if simplified else 4)
    if bias is not None and not _is_linear(x) and _is_linear(skip):
        skip, bias = call.op("Add", skip, bias), None
    elif bias is not None:
        x = call.op("Add", x, bias)
    total = call.op("Add", x, skip)
    epsilon = call.attr("epsilon", 1e-12)
    if simplified:
        y = _rms_norm(call, total, scale, epsilon)
    else:
        y = call.op("LayerNormalization", total, scale, call.input(3), axis=-1, epsilon=epsilon)
    return [y, None, None, total]


def _is_linear(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and node.op_type == "MatMul" and constant(node.inputs[1]) is not None


def _simplified_layer_norm(call: Call) -> list[ir.Value]:
    return [_rms_norm(call, call.input(0), call.input(1), call.attr("epsilon", 1e-5))]


def _rms_norm(call: Call, x: ir.Value | None, scale: ir.Value | None, epsilon: float) -> ir.Value:
    mean = call.op("ReduceMean", call.op("Mul", x, x), call.ints(-1), keepdims=1)
    size = call.op("Sqrt", call.op("Add", mean, call.number(epsilon)))
    return call.op("Mul", call.op("Div", x, size), scale)


def _mean_variance_norm(call: Call) -> list[ir.Value]:
    x, axes = call.input(0), call.ints(*call.attr("axes", [0, 2, 3]))
    centred = call.op("Sub", x, call.op("ReduceMean", x, axes))
    deviation = call.op("Sqrt", call.op("ReduceMean", call.op("Mul", centred, centred), axes))
    return [call.op("Div", centred, call.op("Add", deviation, call.number(1e-9)))]


def _group_norm(call: Call) -> list[ir.Value]:
    x, last = call.input(0), call.attr("channels_last", 1)
    x = call.op("Transpose", x, perm=[0, 3, 1, 2]) if last else x
    epsilon, groups = call.attr("epsilon", 1e-5), call.attr("groups", None)
    y = call.op("GroupNormalization", x, call.input(1), call.input(2), num_groups=groups, epsilon=epsilon)
    if call.attr("activation", 0):
        y = call.op("Mul", y, call.op("Sigmoid", y))
    return [call.op("Transpose", y, perm=[0, 2, 3, 1]) if last else y]


def _matmul(call: Call) -> list[ir.Value]:
    y = call.op("MatMul", *(_factor(call, index, letter) for index, letter in enumerate("AB")))
    alpha = call.attr("alpha", 1.0)
    return [y if alpha == 1.0 else call.op("Mul", y, call.number(alpha))]


def _factor(call: Call, index: int, letter: str) -> ir.Value | None:
    """Returns an operand of FusedMatMul, its first axis moved in front of the last (transBatch), then the last two axes
    exchanged (trans)."""
    value, rows, batch = call.input(index), call.attr(f"trans{letter}", 0), call.attr(f"transBatch{letter}", 0)
    array = constant(value)
    if array is not None and value is not None and (rows or batch):
        array = np.moveaxis(array, 0, -2) if batch else array
        return call.constant(np.swapaxes(array, -1, -2) if rows else array, str(value.name))
    if not rows and not batch:
        return value
    source = "i...j" if batch else "...ij"
    return call.op("Einsum", value, equation=f"{source}->...{'ji' if rows else 'ij'}")


def _gemm(call: Call) -> list[ir.Value]:
    names = ("alpha", "beta", "transA", "transB")
    y = call.op("Gemm", *call.node.inputs, **{name: call.attr(name, None) for name in names})
    parameters = [call.attr(f"activation_{name}", None) for name in ("alpha", "beta", "gamma")]
    return [_activated(call, y, [p for p in parameters if p is not None])]


_CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _conv(call: Call) -> list[ir.Value]:
    channels_last = call.node.op_type.startswith("Nhwc")
    x, w, added = call.input(0), call.input(1), call.input(3)
    if channels_last:
        x = call.op("Transpose", x, perm=[0, 3, 1, 2])
    if call.node.op_type == "NhwcConv":  # NhwcFusedConv has its weight channels first, as the standard operator
        array = constant(w)
        assert array is not None and w is not None
        w = call.constant(array.transpose(0, 3, 1, 2), str(w.name))
    y = call.op("Conv", x, w, call.input(2), **{name: call.attr(name, None) for name in _CONV_ATTRIBUTES})
    y = call.op("Transpose", y, perm=[0, 2, 3, 1]) if channels_last else y
    y = y if added is None else call.op("Add", y, added)
    return [_activated(call, y, list(call.attr("activation_params", [])))]


_ACTIVATIONS = {
    "": (),
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}
"""Activations that ONNX Runtime fuses into a product -> their parameters in the order of `activation_params`."""


def _activated(call: Call, y: ir.Value, parameters: list[float]) -> ir.Value:
    kind = call.attr("activation", "")
    if kind == "":
        return y
    if kind == "Clip":
        return call.op("Clip", y, *(call.number(p) for p in parameters))
    return call.op(kind, y, **dict(zip(_ACTIVATIONS.get(kind, ()), parameters, strict=False)))


def _grid_sample(call: Call) -> list[ir.Value]:
    mode = call.attr("mode", "bilinear")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    padding, corners = call.attr("padding_mode", "zeros"), call.attr("align_corners", 0)
    sampled = call.op(
        "GridSample", call.input(0), call.input(1), mode=mode, padding_mode=padding, align_corners=corners
    )
    return [sampled]


_QKV_ONLY = {"unidirectional": 0, "do_rotary": 0}

FUSED: dict[str, Fused] = {
    "Attention": Fused(
        attention, only=_QKV_ONLY, constants={1: "weights"},
        absent={3: "mask_index", 4: "past", 6: "past_sequence_length"},
    ),
    "BiasAdd": Fused(_bias_add),
    "BiasGelu": Fused(_gelu),
    "BiasSplitGelu": Fused(_bias_split_gelu),
    "FastGelu": Fused(_gelu),
    "FusedConv": Fused(_conv),
    "FusedGemm": Fused(_gemm),
    "FusedMatMul": Fused(_matmul),
    "Gelu": Fused(_gelu),
    "GridSample": Fused(_grid_sample),
    "GroupNorm": Fused(_group_norm),
    "MeanVarianceNormalization": Fused(_mean_variance_norm),
    "MultiHeadAttention": Fused(
        multi_head_attention, only={"unidirectional": 0}, constants={3: "bias"},
        absent={4: "key_padding_mask", 6: "past_key", 7: "past_value", 8: "past_sequence_length"},
    ),
    "NhwcConv": Fused(_conv, constants={1: "W"}),
    "NhwcFusedConv": Fused(_conv),
    "QuickGelu": Fused(_quick_gelu),
    "SimplifiedLayerNormalization": Fused(_simplified_layer_norm, constants={1: "scale"}),
    "SkipLayerNormalization": Fused(_skip_layer_norm, outputs=(0, 3)),
    "SkipSimplifiedLayerNormalization": Fused(_skip_layer_norm, outputs=(0, 3)),
    "TransposeMatMul": Fused(_matmul),
}  # fmt: skip
"""Operator of com.microsoft -> its expansion."""
