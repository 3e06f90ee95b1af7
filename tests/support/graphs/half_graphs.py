"""Small models in half precision, from a plan to the emitted graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from qvit_deploy.calibrate.extremes import tensor_extremes
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.tensorrt.half.emission import emit_tensorrt
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph, to_half
from qvit_deploy.targets.tensorrt.packed.emission import pack_half
from tests.support.graphs.quantizable_graphs import Calibrated, canonical
from tests.support.graphs.relevance_graphs import Builder

TOKENS, WIDTH, HEADS, DEPTH, CLASSES = 16, 32, 2, 16, 16


def half(calibrated: Calibrated, plan: Plan) -> HalfGraph:
    emitted = emit_tensorrt(calibrated.graph, plan)
    largest = tensor_extremes(Executor(emitted.graph), [Examples.images(calibrated.images)], lambda _: None)
    return to_half(emitted, largest)


def packed(calibrated: Calibrated, plan: Plan) -> HalfGraph:
    """The packed profile."""
    return pack_half(half(calibrated, plan), emit_tensorrt(calibrated.graph, plan).graph, plan)


def wide_vit(gain: float = 1.0, bias_before_softmax: bool = False, tokens: int = TOKENS) -> Graph:
    """One block whose every product is wide enough for TensorRT's integer kernels, on 4 x tokens x 8 images.

    Args:
        gain: multiplies the residual stream, which a LayerNorm takes back.
    """
    b = Builder(0)
    x = b.op("Reshape", "image", b.constant([0, tokens, WIDTH]))
    x = b.linear(x, WIDTH, WIDTH, "embed")
    x = b.op("Mul", x, b.constant(np.float32(gain)), name="stream")
    normed = b.layer_norm(x, WIDTH, "norm1")
    parts = {}
    for part in "qkv":
        split = b.op("Reshape", b.linear(normed, WIDTH, WIDTH, f"attn.{part}"), b.constant([0, tokens, HEADS, DEPTH]))
        parts[part] = b.op("Transpose", split, perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3], name=f"{part}_heads")
    scores = b.op("Mul", b.op("MatMul", parts["q"], parts["k"]), b.constant(np.float32(DEPTH**-0.5)))
    if bias_before_softmax:
        scores = b.op("Add", scores, b.normal(1, HEADS, tokens, tokens))
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), parts["v"])
    joined = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.constant([0, tokens, WIDTH]))
    x = b.op("Add", x, b.linear(joined, WIDTH, WIDTH, "attn.proj"), name="middle")
    hidden = b.op("Gelu", b.linear(b.layer_norm(x, WIDTH, "norm2"), WIDTH, 2 * WIDTH, "fc1"), name="hidden")
    x = b.op("Add", x, b.linear(hidden, 2 * WIDTH, WIDTH, "fc2"), name="out")
    row = b.op("Gather", b.layer_norm(x, WIDTH, "norm"), b.constant(np.int64(0)), axis=1, name="row")
    return canonical(b, b.linear(row, WIDTH, CLASSES, "head", "logits"), (4, tokens, 8), "wide")


def types(graph: Graph) -> Mapping[str, str]:
    """Tensor name -> its type, as ONNX's own inference finds it (which raises when two types meet)."""
    inferred = onnx.shape_inference.infer_shapes(graph.to_proto(), check_type=True, strict_mode=True)
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return {v.name: onnx.TensorProto.DataType.Name(v.type.tensor_type.elem_type) for v in values}


def constant_of(graph: Graph, node_output: str, index: int) -> np.ndarray:
    node = next(n for n in graph.nodes() if n.outputs[0].name == node_output)
    value = constant(node.inputs[index])
    assert value is not None
    return value
