"""Small canonical graphs to propagate relevance through, written by hand so that no exporter is involved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph


class Builder:
    """Appends nodes; every method returns the name of the tensor it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}

    def constant(self, value: np.ndarray | list[int] | float, name: str = "") -> str:
        name = name or f"c{len(self.initializers)}"
        array = np.asarray(value)
        self.initializers[name] = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        return name

    def codes(self, values: np.ndarray) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers[name] = values
        return name

    def normal(self, *shape: int, scale: float = 1.0, name: str = "") -> str:
        return self.constant(scale * self.random.standard_normal(shape), name)

    def op(self, op_type: str, *inputs: str, name: str = "", **attributes: object) -> str:
        name = name or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    def linear(self, x: str, rows: int, columns: int, module: str, name: str = "") -> str:
        weight = self.normal(rows, columns, scale=rows**-0.5, name=f"{module}.weight")
        product = self.op("MatMul", x, weight, name=f"{module}.product")
        return self.op("Add", product, self.normal(columns, scale=0.2, name=f"{module}.bias"), name=name)

    def layer_norm(self, x: str, width: int, module: str) -> str:
        scale = self.constant(1 + 0.2 * self.random.standard_normal(width), f"{module}.weight")
        bias = self.normal(width, scale=0.2, name=f"{module}.bias")
        return self.op("LayerNormalization", x, scale, bias, name=module, axis=-1, epsilon=1e-6)

    def graph(self, output: str, image: tuple[int, ...], name: str = "small") -> Graph:
        return self.graph_with({output: ["batch", "classes"]}, image, name)

    def graph_with(self, outputs: Mapping[str, list[str | int]], image: tuple[int, ...], name: str = "small") -> Graph:
        tensors = [numpy_helper.from_array(v, k) for k, v in self.initializers.items()]
        inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *image])]
        values = [helper.make_tensor_value_info(k, TensorProto.FLOAT, shape) for k, shape in outputs.items()]
        proto = helper.make_graph(self.nodes, name, inputs, values, tensors)
        model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", CANONICAL_OPSET)])
        onnx.checker.check_model(model)
        return Graph(ir.from_proto(onnx.shape_inference.infer_shapes(model)), name)


def vit(blocks: int = 2, width: int = 16, heads: int = 2, classes: int = 5, seed: int = 0) -> Graph:
    """A ViT on 3 x 8 x 8 images: 4 patches and a class token, pre-norm blocks with LayerScale."""
    b = Builder(seed)
    x = b.op("Gather", vit_tokens(b, blocks, width, heads), b.constant(np.int64(0)), axis=1, name="pooled")
    return b.graph(b.linear(x, width, classes, "head", "logits"), (3, 8, 8))


def vit_tokens(b: Builder, blocks: int = 2, width: int = 16, heads: int = 2) -> str:
    """The same up to the final norm: [batch, 5, width], the class token first."""
    kernel = b.normal(width, 3, 4, 4, scale=0.2, name="patch_embed.weight")
    x = b.op("Conv", "image", kernel, b.normal(width, scale=0.2), strides=[4, 4], kernel_shape=[4, 4])
    x = b.op("Transpose", b.op("Reshape", x, b.constant([0, width, 4])), perm=[0, 2, 1])
    count = b.op("Shape", "image", start=0, end=1)
    shape = b.op("Concat", count, b.constant([1]), b.constant([width]), axis=0)
    token = b.op("Expand", b.normal(1, 1, width, name="cls_token"), shape)
    x = b.op("Add", b.op("Concat", token, x, axis=1), b.normal(1, 5, width, scale=0.5), name="embedded")
    for i in range(blocks):
        x = _attention(b, x, width, heads, f"blocks.{i}")
        x = _mlp(b, x, width, f"blocks.{i}")
    return b.layer_norm(x, width, "norm")


def _attention(b: Builder, x: str, width: int, heads: int, block: str) -> str:
    depth = width // heads
    qkv = b.linear(b.layer_norm(x, width, f"{block}.norm1"), width, 3 * width, f"{block}.qkv", f"{block}.qkv")
    parts = b.op("Transpose", b.op("Reshape", qkv, b.constant([0, 5, 3, heads, depth])), perm=[2, 0, 3, 1, 4])
    q, k, v = (b.op("Gather", parts, b.constant(np.int64(i)), axis=0, name=f"{block}.{'qkv'[i]}") for i in range(3))
    q = b.op("Mul", q, b.constant(depth**-0.5), name=f"{block}.q_scaled")
    k = b.op("Transpose", k, perm=[0, 1, 3, 2], name=f"{block}.k_t")
    pattern = b.op("Softmax", b.op("MatMul", q, k, name=f"{block}.scores"), axis=-1, name=f"{block}.pattern")
    out = b.op("Transpose", b.op("MatMul", pattern, v, name=f"{block}.mixed"), perm=[0, 2, 1, 3])
    out = b.op("Reshape", out, b.constant([0, 5, width]), name=f"{block}.joined")
    out = b.linear(out, width, width, f"{block}.proj")
    return b.op("Add", x, b.op("Mul", out, b.normal(width, scale=0.7)), name=f"{block}.mid")


def _mlp(b: Builder, x: str, width: int, block: str) -> str:
    hidden = b.linear(b.layer_norm(x, width, f"{block}.norm2"), width, 4 * width, f"{block}.fc1", f"{block}.hidden")
    hidden = b.op("Gelu", hidden, name=f"{block}.gelu")
    out = b.linear(hidden, 4 * width, width, f"{block}.fc2", f"{block}.mlp")
    return b.op("Add", x, out, name=f"{block}.out")
