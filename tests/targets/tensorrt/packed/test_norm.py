"""LayerNorms that write the codes of packed linears: their bytes, what reads them, and which norms are taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from qvit_deploy.emit.local_functions import DOMAIN, plugin_operators
from qvit_deploy.graph.edit import add_constant
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.tensorrt.half.emission import emit_tensorrt
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.function_body import PLUGIN
from qvit_deploy.targets.tensorrt.packed.linear import CODE_ATTRIBUTES, linear_function, operator, pack_linears
from qvit_deploy.targets.tensorrt.packed.norm import NORM_ATTRIBUTES, norm_function, norm_operator, pack_norms
from qvit_deploy.targets.tensorrt.packed.packing import PACKED_BITS, pack, packed_shape
from tests.support.graphs.half_graphs import half, types, wide_vit
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit

FLOAT, FLOAT16, INT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8
EPSILON = 1e-6


def model_of(node: onnx.NodeProto, function: onnx.FunctionProto | None, ends: dict[str, tuple[int, list]]) -> bytes:
    """`ends`: name -> (type, shape), the result last."""
    infos = [onnx.helper.make_tensor_value_info(name, *end) for name, end in ends.items()]
    graph = onnx.helper.make_graph([node], "g", infos[:-1], infos[-1:])
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid(DOMAIN, 1)]
    functions = [] if function is None else [function]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def computed(model: bytes, feed: dict[str, np.ndarray]) -> np.ndarray:
    (result,) = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feed)
    return np.asarray(result)


def one_norm(container: int, bits: int, c: int, dtype: int, scale: float, shift: float) -> bytes:
    low, high = -(2 ** (bits - 1)) * scale, (2 ** (bits - 1) - 1) * scale
    numbers = (EPSILON, scale, shift, low, high, bits, c)
    node = onnx.helper.make_node(
        norm_operator(container), ["x", "gamma", "beta"], ["codes"], domain=DOMAIN,
        **dict(zip(NORM_ATTRIBUTES, numbers, strict=True)), **PLUGIN,
    )  # fmt: skip
    ends = {"x": (dtype, ["b", "t", c]), "gamma": (FLOAT, [c]), "beta": (FLOAT, [c])}
    return model_of(node, norm_function(container), {**ends, "codes": (INT8, ["b", "t", c * container // 8])})


def halves(codes: np.ndarray) -> np.ndarray:
    """QVIT_CODES4 of int8 codes [.., c], written from its description in qvit.h."""
    low, high = np.moveaxis(codes.reshape(*codes.shape[:-1], -1, 2, 16), -2, 0)
    return ((high.astype(np.int16) << 4) | (low & 15)).astype(np.uint8).view(np.int8).reshape(*codes.shape[:-1], -1)


@pytest.mark.parametrize(("container", "bits"), [(8, 4), (8, 6), (8, 8), (4, 4)])
@pytest.mark.parametrize("dtype", [FLOAT, FLOAT16])
@settings(max_examples=10, deadline=None)
@given(chunks=st.integers(1, 5), rows=st.integers(1, 9), seed=st.integers(0, 2**20), shift=st.sampled_from([0.0, 0.75]))
def test_codes_are_those_of_the_norm_then_quantized(
    container: int, bits: int, dtype: int, chunks: int, rows: int, seed: int, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    c, scale = chunks * (16 if container == 8 else 32), float(np.float32(4 / 2**bits))
    x = (3 * rng.standard_normal((2, rows, c))).astype(np.float16 if dtype == FLOAT16 else np.float32)
    gamma, beta = (rng.standard_normal(c).astype(np.float32) for _ in range(2))
    node = onnx.helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["y"], axis=-1, epsilon=EPSILON)
    ends = {"x": (FLOAT, ["b", "t", c]), "gamma": (FLOAT, [c]), "beta": (FLOAT, [c]), "y": (FLOAT, ["b", "t", c])}
    normal = computed(model_of(node, None, ends), {"x": x.astype(np.float32), "gamma": gamma, "beta": beta})
    codes = np.rint((normal + np.float32(shift)) / np.float32(scale))
    codes = np.clip(codes, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int8)
    feed = {"x": x, "gamma": gamma, "beta": beta}
    got = computed(one_norm(container, bits, c, dtype, scale, shift), feed)
    np.testing.assert_array_equal(got, halves(codes) if container == 4 else codes)


def test_the_reference_evaluator_packs_the_same() -> None:
    rng = np.random.default_rng(3)
    feed = {"x": rng.standard_normal((2, 3, 64)).astype(np.float32), "gamma": np.ones(64, np.float32)}
    feed["beta"] = rng.standard_normal(64).astype(np.float32)
    model = one_norm(4, 4, 64, FLOAT, 0.25, 0.1)
    (got,) = ReferenceEvaluator(onnx.load_from_string(model)).run(None, feed)
    np.testing.assert_array_equal(got, computed(model, feed))


def one_linear(bits: int, container: int, n: int, k: int, gelu: bool, to: int) -> bytes:
    numbers = (0.25, 4 if container == 4 else 8, n, k, to)
    node = onnx.helper.make_node(
        operator(bits, gelu, container), ["codes", "packed", "s", "b"], ["y"], domain=DOMAIN,
        **dict(zip(CODE_ATTRIBUTES, numbers, strict=True)), **PLUGIN,
    )  # fmt: skip
    ends = {
        "codes": (INT8, ["b", "t", k * container // 8]), "packed": (INT8, list(packed_shape((n, k), bits))),
        "s": (FLOAT, [n]), "b": (FLOAT, [n]), "y": (to, ["b", "t", n]),
    }  # fmt: skip
    return model_of(node, linear_function(bits, gelu, container), ends)


@pytest.mark.parametrize("bits", PACKED_BITS)
@pytest.mark.parametrize("container", [8, 4])
@pytest.mark.parametrize("to", [FLOAT, FLOAT16])
def test_a_linear_multiplies_the_codes_it_reads(bits: int, container: int, to: int) -> None:
    rng, n, k = np.random.default_rng(bits), 13, 96
    weight = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k), np.int8)
    codes = rng.integers(-(2 ** (container - 1)), 2 ** (container - 1), (2, 5, k), np.int8)
    feed = {
        "codes": halves(codes) if container == 4 else codes,
        "packed": pack(weight, bits).view(np.int8).reshape(packed_shape((n, k), bits)),
        "s": np.full(n, 0.5, np.float32), "b": np.arange(n, dtype=np.float32),
    }  # fmt: skip
    wanted = (codes.astype(np.int64) @ weight.T * 0.125 + feed["b"]).astype(np.float32)
    got = computed(one_linear(bits, container, n, k, False, to), feed)
    np.testing.assert_array_equal(got, wanted.astype(np.float16 if to == FLOAT16 else np.float32))


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(wide_vit(), (4, 6, 8))


def linears_and_norms(
    calibrated: Calibrated, plan: Plan, changed: Callable[[Graph], None] | None = None
) -> tuple[HalfGraph, HalfGraph]:
    """(with packed linears, with the norms that write their codes too); `changed` is done to both graphs."""
    linears, emitted = pack_linears(half(calibrated, plan)), emit_tensorrt(calibrated.graph, plan).graph
    for graph in (linears.graph, emitted) if changed is not None else ():
        assert changed is not None
        changed(graph)
    return linears, pack_norms(linears, emitted)


def operators(emitted: HalfGraph) -> list[str]:
    return [node.op_type for node in emitted.graph.nodes() if node.domain == DOMAIN]


@pytest.mark.parametrize(("widths", "norm"), [((4, 4), 4), ((6, 6), 8), ((4, 8), 8), ((8, 4), 4)])
def test_norms_whose_readers_are_packed_on_one_grid(calibrated: Calibrated, widths: tuple[int, int], norm: int) -> None:
    """norm1 in front of q, k and v; norm2 in front of fc1; not the last, whose rows are picked."""
    plan = half_scales(calibrated.plan(widths))
    before, after = linears_and_norms(calibrated, plan)
    reads = f"QLinearW{widths[0]}Codes{norm}"
    one = f"QLinearW{widths[0]}"
    normed = [norm_operator(norm), reads, reads, reads, one, norm_operator(norm), f"{reads}Gelu", one, one]
    assert operators(after) == [one, *normed]
    assert [n.op_type for n in after.graph.nodes()].count("LayerNormalization") == 1
    declared = {name for domain, name, _ in after.graph.model.functions if domain == DOMAIN}
    assert declared == set(operators(after)) and after.packed == before.packed
    known = types(after.graph)
    norms = [n for n in after.graph.nodes() if n.op_type == norm_operator(norm)]
    assert {known[n.outputs[0].name or ""] for n in norms} == {"INT8"}
    assert {known[n.inputs[0].name or ""] for n in norms if n.inputs[0] is not None} == {"FLOAT16"}
    read = [n for n in after.graph.nodes() if "Codes" in n.op_type]
    assert {known[n.outputs[0].name or ""] for n in read} == {"FLOAT16"}
    proto = after.graph.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    assert f"qvit::{norm_operator(norm)}:1" in plugin_operators(proto.SerializeToString())
    images = calibrated.images.numpy()
    ours, theirs = (run(session(e.graph.serialize(), 1), Examples.images(images))[0] for e in (after, before))
    assert np.abs(ours - theirs).max() <= 0.1 * np.abs(theirs).max()


def norm1(graph: Graph) -> ir.Node:
    return next(n for n in graph.nodes() if n.op_type == "LayerNormalization")


def read_by_another(graph: Graph) -> None:
    graph.model.graph.outputs.append(norm1(graph).outputs[0])


def with_a_computed_gamma(graph: Graph) -> None:
    norm = norm1(graph)
    node = ir.node("Abs", [norm.inputs[1]])
    graph.model.graph.insert_before(norm, node)
    norm.replace_input_with(1, node.outputs[0])


def over_two_axes(graph: Graph) -> None:
    norm1(graph).attributes["axis"] = ir.AttrInt64("axis", 1)


def of_one_gamma(graph: Graph) -> None:
    norm1(graph).replace_input_with(1, add_constant(graph.model.graph, "one", np.ones(1, np.float32)))


@pytest.mark.parametrize("changed", [read_by_another, with_a_computed_gamma, over_two_axes, of_one_gamma])
def test_norms_that_stay(calibrated: Calibrated, changed: Callable[[Graph], None]) -> None:
    plan = half_scales(calibrated.plan((8, 8)))
    _, after = linears_and_norms(calibrated, plan, changed)
    assert operators(after).count("LayerNormQuantize8") == 1
    assert (norm1(after.graph).outputs[0].name or "").startswith("norm1")


def test_readers_on_two_grids_keep_their_norm() -> None:
    calibrated = calibrate(wide_vit(), (4, 8))
    plan = half_scales(calibrated.plan({s.name: (8, 4 if s.name == "attn.q" else 8) for s in calibrated.sites}))
    assert operators(linears_and_norms(calibrated, plan)[1]).count("LayerNormQuantize8") == 1


def test_rows_that_are_not_aligned_keep_their_norm() -> None:
    """16 channels of 4 bits are 8 bytes."""
    calibrated = calibrate(mixed_vit(), (4, 8))
    for a_bits, packed in ((4, 0), (8, 2)):
        before, after = linears_and_norms(calibrated, half_scales(calibrated.plan((4, a_bits))))
        assert sum(name.startswith("LayerNorm") for name in operators(after)) == packed
        assert (after is before) == (packed == 0)


def test_a_norm_without_beta_gets_zeros(calibrated: Calibrated) -> None:
    def without(graph: Graph) -> None:
        norm = norm1(graph)
        norm.resize_inputs(2)

    plan = half_scales(calibrated.plan((8, 8)))
    before, after = linears_and_norms(calibrated, plan, without)
    quantizing = next(n for n in after.graph.nodes() if n.op_type == "LayerNormQuantize8")
    assert quantizing.inputs[2] is not None and quantizing.inputs[2].const_value is not None
    assert not quantizing.inputs[2].const_value.numpy().any() and len(operators(after)) == len(operators(before)) + 2
