"""Small canonical models with several outputs."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph
from tests.support.graphs.relevance_graphs import Builder

WIDTH, CLASSES, TOKENS, PLANES = 16, 5, 4, 6


def with_outputs(b: Builder, outputs: dict[str, int], name: str) -> Graph:
    """The builder's graph on 3 x 16 x 16 images, as a frontend hands it on; output -> its type."""
    first, *rest = outputs
    proto = b.graph(first, (3, 16, 16)).to_proto()
    proto.graph.output.extend(helper.make_tensor_value_info(o, outputs[o], None) for o in rest)
    listed = {o.name: o for o in proto.graph.value_info}
    for output in proto.graph.output:
        if output.name in listed:
            proto.graph.value_info.remove(listed[output.name])
    return canonicalize(ir.from_proto(onnx.shape_inference.infer_shapes(proto)), name)


def two_heads(seed: int = 0, only: str | None = None, with_best: bool = False) -> Graph:
    """A trunk of two linears on 4 tokens; `logits` [batch, 5] of their mean, behind a linear `class_neck`, and `mask`
    [batch, 4, 6] of every token, behind a linear `mask_neck`.

    Args:
        only: the output to keep, with all weights as in the model of both.
        with_best: with the output `best` int64 [batch, 4], the largest of what a linear `best_head` gives.
    """
    b = Builder(seed)
    x = b.op("Reshape", "image", b.constant([0, TOKENS, 192]))
    x = b.op("Gelu", b.linear(x, 192, WIDTH, "trunk.0"))
    x = b.op("Gelu", b.linear(x, WIDTH, WIDTH, "trunk.1"))
    pooled = b.op("ReduceMean", b.op("Gelu", b.linear(x, WIDTH, WIDTH, "class_neck")), b.constant([1]), keepdims=0)
    b.linear(pooled, WIDTH, CLASSES, "class_head", "logits")
    b.linear(b.op("Gelu", b.linear(x, WIDTH, WIDTH, "mask_neck")), WIDTH, PLANES, "mask_head", "mask")
    b.op("ArgMax", b.linear(x, WIDTH, WIDTH, "best_head"), axis=-1, keepdims=0, name="best")
    types = {"logits": TensorProto.FLOAT, "mask": TensorProto.FLOAT}
    outputs = types if only is None else {only: types[only]}
    return with_outputs(b, outputs | ({"best": TensorProto.INT64} if with_best else {}), "two_heads")
