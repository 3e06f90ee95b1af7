"""Models of single sites: each runs as the site does in the whole, with the planned codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import pytest

from qvit_deploy.bench.sites.emission import RANGE, WEIGHT_SCALE, emit_norm, overhead, site_shape, tensor_shapes
from qvit_deploy.errors import InputError
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.targets.onnxruntime.runner import OnnxRuntimeRunner
from qvit_deploy.targets.onnxruntime.runtime import fusion, session
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.targets.runtime import RunSettings
from qvit_deploy.targets.tensorrt.packed.linear import FUNCTION_CODES
from qvit_deploy.targets.tensorrt.packed.norm import FUNCTION_NORM_CODES
from qvit_deploy.targets.tensorrt.packed.packing import unpack
from tests.support.artifacts.site_examples import emitted
from tests.support.graphs.half_graphs import packed, wide_vit
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit

BEHIND_NORMS = ("attn.q", "attn.k", "attn.v", "fc1")
"""Sites of `wide_vit`; between its last norm and the head is the choice of a row."""
PACKED = ("tensorrt-plugin",)
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def for_onnxruntime(model: onnx.ModelProto) -> bytes:
    """ONNX Runtime 1.32 refuses the Gemm it makes of a product of known sizes; no other runtime reads these files."""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = "n"
    return model.SerializeToString()


def types(model: onnx.ModelProto) -> list[int]:
    return [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)]


@pytest.mark.parametrize("width", [(4, 4), (8, 8)])
def test_every_site_becomes_a_model_that_runs_as_in_the_whole(width: tuple[int, int], tmp_path: Path) -> None:
    """Linears (with and without bias, on rows too) and attention products on integers, the convolution as it is."""
    graph = mixed_vit(head_bias=False)
    for name, content in emitted(graph, 3, width).items():
        path = tmp_path / "site.onnx"
        path.write_bytes(content)
        runner = OnnxRuntimeRunner(path, RunSettings())
        assert runner.batch == 3 and runner.run_ns() > 0
        assert fusion(content).integer_products == (0 if name == "stem" else 1), name


@pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if target.half_precision])
def test_sites_in_half_precision_read_and_write_it(target: str, tmp_path: Path) -> None:
    """The image alone is float32; what TensorRT leaves in float computes in float16."""
    for name, content in emitted(wide_vit(), 2, (6, 6), target).items():
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        assert types(model) == [FLOAT if name == "embed" else HALF, *[HALF] * (len(types(model)) - 1)], name
        assert not any(n.op_type == "Cast" for n in model.graph.node) or name == "embed"
        attention, behind = name in ("attn.qk", "attn.av"), name in BEHIND_NORMS
        assert [n.op_type for n in model.graph.node if attention] == ["MatMul"] * attention
        ours = ["LayerNormQuantize8", "QLinearW6Codes8"] if behind else ["QLinearW6"]
        calls = [n.op_type for n in model.graph.node if n.domain == "qvit"]
        assert calls == (ours if target in PACKED and not attention else []), name
        assert sum(n.op_type == "LayerNormalization" for n in model.graph.node) == (behind and target not in PACKED)
        (tmp_path / "site.onnx").write_bytes(for_onnxruntime(model))
        assert OnnxRuntimeRunner(tmp_path / "site.onnx", RunSettings(2)).run_ns() > 0
    assert types(onnx.load_from_string(overhead(TARGETS[target]))) == [HALF, HALF]
    assert types(onnx.load_from_string(overhead(TARGETS["onnxruntime"]))) == [FLOAT, FLOAT]


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "tensorrt-plugin"])
@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize(("site", "k", "n"), [("fc1", 32, 64), ("fc2", 64, 32)])
def test_the_codes_are_the_planned_ones(target: str, bits: int, site: str, k: int, n: int) -> None:
    model = onnx.load_from_string(emitted(wide_vit(), 1, (bits, bits), target)[site])
    in_plugin, behind = target in PACKED, site in BEHIND_NORMS
    x = np.random.default_rng(1).standard_normal((1, 16, k)).astype(np.float16)
    low, high = Int(bits).range
    scale = np.float32(np.float16(RANGE / high))
    weight = np.random.default_rng(0).integers(low, high + 1, (k, n))
    (stored,) = (
        onnx.numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.name in (f"site.weight.q{bits}", f"site.weight.packed{bits}")
    )
    np.testing.assert_array_equal(unpack(stored.view(np.uint8), bits, (n, k)).T if in_plugin else stored, weight)

    inside = onnx.inliner.inline_local_functions(model)
    whole = ["normed.codes"] if bits > 4 else []  # codes that are one a byte are the LayerNorm's result itself
    (codes,) = (
        name
        for node in inside.graph.node
        for name in node.output
        if (name.startswith((FUNCTION_CODES, FUNCTION_NORM_CODES)) or name in whole or not in_plugin)
        and (node.op_type == "QuantizeLinear")
    )
    inside.graph.output.append(onnx.ValueInfoProto(name=codes))
    y, got = session(for_onnxruntime(inside), 1).run(None, {"x": x})
    assert y.dtype == np.float16 and len(np.unique(got)) > 2 ** (bits - 1)
    wide = x.astype(np.float32)
    read = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6) if behind else wide
    wanted = np.clip(np.round(read / scale), low, high)
    if behind:  # a norm in float16 moves some values to the other side of a rounding
        assert np.abs(got - wanted).max() <= 1 and (got != wanted).mean() < 0.05
    else:
        np.testing.assert_array_equal(got, wanted)
    # Of a product in float16 only the size can be told: TensorRT multiplies the integers, this sums rounded terms.
    exact = (got.astype(np.float32) @ weight) * scale * np.float32(WEIGHT_SCALE)
    np.testing.assert_allclose(y, exact, atol=5e-3 * np.abs(exact).max())


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_sites_run_in_the_operators_that_the_whole_file_calls(bits: int) -> None:
    """But for a GELU, which a site has not."""
    calibrated = calibrate(wide_vit(), (bits,))
    whole = packed(calibrated, half_scales(calibrated.plan((bits, bits)))).graph
    calls = {n.name: n for n in whole.nodes() if n.domain == "qvit"}
    alone = emitted(wide_vit(), 1, (bits, bits), "tensorrt-plugin")
    for site in calibrated.sites:
        (ours,) = (n for n in onnx.load_from_string(alone[site.name]).graph.node if n.name == "site.qvit")
        theirs = calls[f"{site.name}.qvit"]
        assert ours.op_type == theirs.op_type.removesuffix("Gelu"), site.name
        sizes = {a.name: a.i for a in ours.attribute if a.name in ("n", "k", "x_bits")}
        assert sizes == {name: theirs.attributes.get_int(name) for name in sizes} and len(sizes) == 3


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-plugin"])
def test_a_norm_alone_is_what_a_site_behind_one_counts_from(target: str) -> None:
    model = onnx.load_from_string(emit_norm((2, 16, 32), TARGETS[target]))
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in model.graph.node] == ["LayerNormalization"] and types(model) == [HALF, HALF]


def test_what_no_plugin_or_integer_kernel_takes_is_emitted_as_a_compile_does() -> None:
    """5 bits stay Q/DQ, a head of 5 classes stays in float."""
    model = onnx.load_from_string(emitted(wide_vit(), 1, (5, 5), "tensorrt-plugin")["fc1"])
    assert [n.op_type for n in model.graph.node][:3] == ["LayerNormalization", "Clip", "QuantizeLinear"]
    model = onnx.load_from_string(emitted(mixed_vit(), 1, (4, 4), "tensorrt-plugin")["head"])
    assert [n.op_type for n in model.graph.node] == ["MatMul", "Add"]


def test_shapes_are_those_of_the_run() -> None:
    graph = mixed_vit()
    shapes = tensor_shapes(graph, 2)
    sites = {s.name: s for s in find_sites(graph)}
    assert shapes[sites["fc1"].input] == (2, 4, 16) and shapes[sites["head"].input] == (2, 16)
    assert shapes[sites["stem"].input] == (2, 3, 16, 16)
    assert shapes[sites["attn.qk"].input] == (2, 2, 4, 8)


def test_a_shape_that_depends_on_the_image_is_refused() -> None:
    graph = mixed_vit()
    site = next(s for s in find_sites(graph) if s.name == "fc1")
    node = next(n for n in graph.nodes() if n.outputs[0].name == site.product)
    shapes = tensor_shapes(graph, 1)
    del shapes[site.input]
    with pytest.raises(InputError, match=r"site 'fc1': the shape of .* depends on the image"):
        site_shape(site, node, shapes)


def test_the_width_is_emitted() -> None:
    model = onnx.load_from_string(emitted(mixed_vit(), 1, (4, 6))["fc1"])
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    (codes,) = (v for n, v in constants.items() if n.endswith("weight.q4"))
    assert codes.dtype == np.int8 and codes.min() == -8 and codes.max() == 7
    (clip,) = (n for n in model.graph.node if n.op_type == "Clip")
    assert constants[clip.input[2]] / constants[clip.input[1]] == pytest.approx(-31 / 32)


def test_windows_have_their_own_shape(tiny_swin: Graph) -> None:
    """Swin's attention sees windows times batch as its first dimension."""
    shapes = tensor_shapes(tiny_swin, 2)
    qk = next(s for s in find_sites(tiny_swin) if s.kind == "matmul_qk")
    assert shapes[qk.input][0] == 2 * 4
