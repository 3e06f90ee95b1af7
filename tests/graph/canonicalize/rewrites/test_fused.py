"""Fused operators of ONNX Runtime: files that its own optimizers wrote, and each operator by itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from qvit_deploy.errors import InputError, UnsupportedOpError
from qvit_deploy.frontend.onnx_file import from_onnx
from qvit_deploy.frontend.timm_model import create
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.canonicalize.rewrites.fused import FUSED
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from tests.support.graphs.canonical_cases import canonical, ops, run
from tests.support.models.torch_models import TINY, HuggingFaceStyleViT, torchscript_onnx

random = np.random.default_rng(0)
Attributes = dict[str, object]


def normal(*shape: int) -> np.ndarray:
    return random.standard_normal(shape).astype(np.float32)


TOKENS = (2, 3, 8, 8)
"""The shape of the input: two images, as [batch, tokens, channels] 24 tokens of 8 channels."""


def model(nodes: list[onnx.NodeProto], outputs: int = 1, opset: int = 17, **weights: np.ndarray) -> onnx.ModelProto:
    """Nodes that make y0, y1... of the image x [2, 3, 8, 8]; "t" is x as tokens [2, 24, 8]."""
    shape = numpy_helper.from_array(np.array([0, 24, 8]), "token_shape")
    nodes = [helper.make_node("Reshape", ["x", "token_shape"], ["t"]), *nodes]
    graph = helper.make_graph(
        nodes,
        "fused",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(TOKENS))],
        [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)],
        [shape, *(numpy_helper.from_array(array, name) for name, array in weights.items())],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def call(
    op: str, inputs: list[str], outputs: list[str] | None = None, domain: str = "com.microsoft", **attributes: object
):
    return helper.make_node(op, inputs, outputs or ["y0"], name="node", domain=domain, **attributes)


WEIGHTS = {
    "bias": normal(8), "gain": np.abs(normal(8)) + 0.5, "matrix": normal(8, 8),
    "skip": normal(1, 24, 8),
    "kernel": normal(4, 3, 3, 3), "kernel_bias": normal(4), "qkv": normal(8, 24), "qkv_bias": normal(24),
    "scores": normal(1, 2, 24, 24), "sum": normal(2, 4, 6, 6),
    "nhwc_kernel": normal(4, 3, 3, 8), "grid": np.tanh(normal(2, 5, 5, 2)),
}  # fmt: skip
CASES: list[tuple[str, list[str], Attributes]] = [
    ("Gelu", ["t"], {}),
    ("FastGelu", ["t"], {}),
    ("FastGelu", ["t", "bias"], {}),
    ("BiasGelu", ["t", "bias"], {}),
    ("QuickGelu", ["t"], {}),
    ("QuickGelu", ["t"], {"alpha": 1.0}),
    ("SkipLayerNormalization", ["t", "skip", "gain"], {}),
    ("SkipLayerNormalization", ["t", "t", "gain", "bias"], {"epsilon": 1e-5}),
    ("SkipLayerNormalization", ["t", "t", "gain", "bias", "bias"], {"epsilon": 1e-5}),
    ("SkipSimplifiedLayerNormalization", ["t", "skip", "gain"], {"epsilon": 1e-5}),
    ("SkipSimplifiedLayerNormalization", ["t", "t", "gain", "bias"], {"epsilon": 1e-5}),
    ("FusedMatMul", ["t", "matrix"], {"transB": 1, "alpha": 0.3}),
    ("FusedMatMul", ["t", "t"], {"transB": 1}),
    ("FusedMatMul", ["t", "t"], {"transA": 1, "alpha": -2.0}),
    ("FusedMatMul", ["x", "x"], {"transBatchB": 1, "transB": 1, "transBatchA": 1}),
    ("TransposeMatMul", ["t", "matrix"], {"transB": 1}),
    ("FusedConv", ["x", "kernel", "kernel_bias"], {"activation": "Relu", "kernel_shape": [3, 3]}),
    ("FusedConv", ["x", "kernel", "kernel_bias", "sum"], {"activation": "Relu", "kernel_shape": [3, 3]}),
    ("FusedConv", ["x", "kernel"], {"activation": "LeakyRelu", "activation_params": [0.2], "kernel_shape": [3, 3]}),
    ("FusedConv", ["x", "kernel"], {"activation": "Clip", "activation_params": [-0.5, 0.7], "pads": [1, 1, 1, 1],
        "kernel_shape": [3, 3]}),
    ("FusedConv", ["x", "kernel"], {"activation": "HardSigmoid", "activation_params": [0.3, 0.4],
        "kernel_shape": [3, 3]}),
    ("Attention", ["t", "qkv", "qkv_bias"], {"num_heads": 2}),
    ("Attention", ["t", "qkv", "qkv_bias", "", "", "scores"], {"num_heads": 2, "scale": 0.3}),
    ("Attention", ["t", "qkv", "qkv_bias"], {"num_heads": 2, "qkv_hidden_sizes": [4, 4, 16]}),
    ("MultiHeadAttention", ["t", "t", "t"], {"num_heads": 2}),
    ("MultiHeadAttention", ["t", "t", "t", "qkv_bias", "", "scores"], {"num_heads": 4, "scale": 0.5}),
    ("GridSample", ["x", "grid"], {"mode": "bicubic", "align_corners": 1}),
]  # fmt: skip


def used(inputs: list[str]) -> dict[str, np.ndarray]:
    return {name: WEIGHTS[name] for name in inputs if name in WEIGHTS}


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join([c[0], *c[1], *c[2]]))
def test_an_expansion_computes_what_the_fused_operator_does(case: tuple[str, list[str], Attributes]) -> None:
    op, inputs, attributes = case
    if op == "MultiHeadAttention" and "scores" in inputs:
        inputs = [name if name != "scores" else "four" for name in inputs]
        weights = {**used(inputs), "four": normal(1, 4, 24, 24)}
    else:
        weights = used(inputs)
    graph = canonical(model([call(op, inputs, **attributes)], **weights), batches=(2,))
    assert all(node.domain == "" for node in graph.nodes())


def test_the_sum_in_front_of_a_norm_is_an_output_of_it() -> None:
    outputs = ["y0", "", "", "y1"]
    node = call("SkipLayerNormalization", ["t", "skip", "gain", "bias", "bias"], outputs, epsilon=1e-5)
    canonical(model([node], outputs=2, **used(["skip", "gain", "bias"])), batches=(2,))


@pytest.mark.parametrize("side", [0, 1])
def test_the_bias_that_a_norm_took_goes_back_to_its_linear_layer(side: int) -> None:
    product = helper.make_node("MatMul", ["t", "matrix"], ["p"])
    operands = ["p", "t"] if side == 0 else ["t", "p"]
    node = call("SkipLayerNormalization", [*operands, "gain", "", "bias"], epsilon=1e-5)
    graph = canonical(model([product, node], **used(["matrix", "gain", "bias"])), batches=(2,))
    assert ops(graph) == ["Reshape", "MatMul", "Add", "Add", "LayerNormalization"]


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh", "LeakyRelu"])
def test_a_gemm_with_its_activation(activation: str) -> None:
    flat = helper.make_node("Flatten", ["x"], ["f"])
    more = {"activation_alpha": 0.2} if activation == "LeakyRelu" else {}
    node = call("FusedGemm", ["f", "w", "bias"], activation=activation, transB=1, alpha=0.5, **more)
    graph = canonical(model([flat, node], w=normal(8, 192), **used(["bias"])), batches=(2,))
    assert ops(graph) == ["Reshape", "MatMul", "Add", activation]


def test_the_simplified_norm_that_onnx_runtime_writes_into_the_standard_domain() -> None:
    node = call("SimplifiedLayerNormalization", ["t", "gain"], domain="", epsilon=1e-5, axis=-1)
    canonical(model([node], **used(["gain"])), batches=(2,))


@pytest.mark.parametrize("opset", [11, 14])
def test_a_layer_norm_in_a_file_older_than_the_operator(opset: int) -> None:
    node = call("LayerNormalization", ["t", "gain", "bias"], domain="", epsilon=1e-5, axis=-1)
    graph = canonical(model([node], opset=opset, **used(["gain", "bias"])), batches=(2,))
    assert ops(graph) == ["Reshape", "LayerNormalization"]


def test_a_mean_variance_normalization() -> None:
    graph = canonical(model([call("MeanVarianceNormalization", ["x"], domain="")]), batches=(2,))
    assert "Sqrt" in ops(graph)


# What ONNX Runtime has no CPU kernel for, against the formula


def executed(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:

    (y,) = run(canonicalize(ir.from_proto(proto), "test").to_proto(), x)
    return y


def test_split_gelu_bias_add_and_norms_of_groups() -> None:
    x = normal(*TOKENS)
    t = torch.from_numpy(x.reshape(2, 24, 8))
    bias, gain, skip = (torch.from_numpy(WEIGHTS[name]) for name in ("bias", "gain", "skip"))
    y = executed(model([call("BiasSplitGelu", ["t", "bias"])], **used(["bias"])), x)
    left, right = (t + bias).chunk(2, -1)
    np.testing.assert_allclose(y, left * torch.nn.functional.gelu(right), rtol=1e-4, atol=1e-5)
    y = executed(model([call("BiasAdd", ["t", "bias", "skip"])], **used(["bias", "skip"])), x)
    np.testing.assert_allclose(y, t + bias + skip, rtol=1e-5, atol=1e-6)
    for activation in (0, 1):
        node = call("GroupNorm", ["x", "gain", "bias"], groups=2, activation=activation, epsilon=1e-3)
        y = executed(model([node], **used(["gain", "bias"])), x)
        moved = torch.from_numpy(x).permute(0, 3, 1, 2)
        expected = torch.nn.functional.group_norm(moved, 2, gain, bias, 1e-3).permute(0, 2, 3, 1)
        expected = torch.nn.functional.silu(expected) if activation else expected
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_convolution_with_channels_last() -> None:
    x = normal(*TOKENS)
    kernel, bias = WEIGHTS["nhwc_kernel"], WEIGHTS["kernel_bias"]
    node = call("NhwcConv", ["x", "nhwc_kernel", "kernel_bias"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    y = executed(model([node], **used(["nhwc_kernel", "kernel_bias"])), x)
    channels_first = torch.from_numpy(x).permute(0, 3, 1, 2)
    weight = torch.from_numpy(kernel).permute(0, 3, 1, 2)
    expected = torch.nn.functional.conv2d(channels_first, weight, torch.from_numpy(bias), padding=1)
    np.testing.assert_allclose(y, expected.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


def test_a_convolution_with_channels_last_its_sum_and_its_activation() -> None:
    """Its weight is as the standard operator's, [out, in, height, width], as the schema in ONNX Runtime says."""
    x, kernel, bias, added = normal(*TOKENS), normal(4, 8, 3, 1), normal(4), normal(2, 3, 4, 4)
    attributes: Attributes = {"activation": "LeakyRelu", "activation_params": [0.2], "kernel_shape": [3, 1]}
    node = call("NhwcFusedConv", ["x", "w", "b", "z"], pads=[1, 0, 1, 0], strides=[1, 2], **attributes)
    y = executed(model([node], w=kernel, b=bias, z=added), x)
    channels_first, weight = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(kernel)
    product = torch.nn.functional.conv2d(channels_first, weight, torch.from_numpy(bias), stride=(1, 2), padding=(1, 0))
    expected = torch.nn.functional.leaky_relu(product.permute(0, 2, 3, 1) + torch.from_numpy(added), 0.2)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_attention_whose_tensors_are_packed() -> None:
    """Query, key and value in one tensor [batch, tokens, heads, 3, size], and key and value in one."""
    x = normal(*TOKENS)
    bias = normal(24)
    packed = helper.make_node("Reshape", ["x", "shape"], ["p"])
    nodes = [packed, call("MultiHeadAttention", ["p", "", "", "b"], num_heads=2)]
    y = executed(model(nodes, shape=np.array([2, 8, 2, 3, 4]), b=bias), x)
    q, k, v = (
        torch.from_numpy(x.reshape(2, 8, 2, 3, 4)) + torch.from_numpy(bias.reshape(3, 2, 4)).permute(1, 0, 2)
    ).permute(3, 0, 2, 1, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 8, 8)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    nodes = [packed, call("MultiHeadAttention", ["t", "p"], num_heads=2)]
    y = executed(model(nodes, shape=np.array([2, 12, 2, 2, 4])), x)
    k, v = torch.from_numpy(x.reshape(2, 12, 2, 2, 4)).permute(3, 0, 2, 1, 4)
    q = torch.from_numpy(x.reshape(2, 24, 2, 4)).transpose(1, 2)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 24, 8)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


# Refusals


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (call("Attention", ["t", "qkv", "qkv_bias", "mask"], num_heads=2), "mask_index"),
        (call("Attention", ["t", "qkv", "qkv_bias"], num_heads=2, unidirectional=1), "unidirectional=1"),
        (call("MultiHeadAttention", ["t", "t", "t", "", "mask"], num_heads=2), "key_padding_mask"),
        (call("SkipLayerNormalization", ["t", "t", "gain"], ["y0", "y1"]), "output 1"),
        (call("Attention", ["t", "t"], num_heads=2), "'weights' is not a constant"),
        (call("EmbedLayerNormalization", ["t", "gain"]), "only standard ONNX operators"),
        (call("QAttention", ["t", "qkv"]), "already quantized"),
        (call("Conv", ["x", "kernel"], domain="com.microsoft.nchwc"), "ORT_ENABLE_EXTENDED"),
    ],
)
def test_what_has_no_expansion_says_why(node: onnx.NodeProto, why: str) -> None:
    outputs = len(node.output)
    weights = used(["qkv", "qkv_bias", "gain", "kernel"])
    with pytest.raises(UnsupportedOpError, match=why):
        canonical(model([node], outputs=outputs, mask=np.ones((2, 24), np.int32), **weights))


def test_every_row_is_tried() -> None:
    here = {case[0] for case in CASES} | {
        "BiasAdd", "BiasSplitGelu", "FusedGemm", "GroupNorm", "MeanVarianceNormalization", "NhwcConv",
        "NhwcFusedConv", "SimplifiedLayerNormalization",
    }  # fmt: skip
    assert set(FUSED) == here


# Files of the optimizers


def optimized(path: Path, data: bytes) -> Path:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return path


def transformers_optimized(path: Path, data: bytes) -> Path:
    from onnxruntime.transformers import optimizer

    source = path.with_name("source.onnx")
    source.write_bytes(data)
    result = optimizer.optimize_model(str(source), model_type="vit", num_heads=3, hidden_size=192, opt_level=0)
    result.save_model_to_file(str(path))
    return path


def assert_same_function(graph: Graph, data: bytes) -> None:
    x = normal(2, 3, 32, 32)
    (expected,), (got,) = run(onnx.load_from_string(data), x), run(graph.to_proto(), x)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [optimized, transformers_optimized])
def test_a_file_of_an_optimizer_is_the_model_it_was_made_from(
    tmp_path: Path, write: Callable[[Path, bytes], Path]
) -> None:
    torch.manual_seed(0)
    module, _ = create("vit_tiny_patch16_224", dict(TINY))
    data = torchscript_onnx(module, (3, 32, 32), 17)
    path = write(tmp_path / "optimized.onnx", data)
    assert any(node.domain == "com.microsoft" for node in onnx.load(path).graph.node)
    (tmp_path / "plain.onnx").write_bytes(data)
    graph, plain = from_onnx(path), from_onnx(tmp_path / "plain.onnx")
    assert_same_function(graph, data)
    assert [site.kind for site in find_sites(graph)] == [site.kind for site in find_sites(plain)]
    assert ops(graph).count("Gelu") == ops(plain).count("Gelu") > 0
    assert ops(graph).count("LayerNormalization") == ops(plain).count("LayerNormalization")


@pytest.mark.filterwarnings("ignore")
def test_a_hugging_face_model_optimized(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torchscript_onnx(HuggingFaceStyleViT(), (3, 32, 32), 14)
    graph = from_onnx(optimized(tmp_path / "optimized.onnx", data))
    assert_same_function(graph, data)


def test_a_file_for_one_processor_is_refused_in_one_line(tmp_path: Path) -> None:
    nodes = [
        call("ReorderInput", ["x"], ["a"], domain="com.microsoft.nchwc"),
        call("Conv", ["a", "kernel"], ["b"], domain="com.microsoft.nchwc"),
        call("NonZero", ["b"], domain=""),
    ]
    with pytest.raises(InputError, match=r"3 kinds of operators .*ReorderInput.*nchwc\.Conv.*NonZero") as error:
        canonical(model(nodes, **used(["kernel"])))
    assert "\n" not in str(error.value)
