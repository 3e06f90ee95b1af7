"""The packed profile computes the integers of the Q/DQ graph in ONNX Runtime, and is as small as its bits."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from qvit_deploy.emit.local_functions import without_plugin_bodies
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.graph.examples import Examples
from qvit_deploy.quantize.plan import SitePlan
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.tensorrt.packed.linear import FUNCTION_CODES, emit_packed, linear_function, operator, packable
from qvit_deploy.targets.tensorrt.packed.packing import PACKED_BITS, pack, packed_shape, unpack
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(qkv_bias=False), (4, 6, 8), attention=True)


def one_linear(bits: int, n: int, k: int, gelu: bool = False, shift: float = 0.0) -> onnx.ModelProto:
    layout = ", ".join(str(d) for d in packed_shape((n, k), bits))
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 21, "qvit": 1]>
        g (float[B, {k}] x, int8[{layout}] packed, float[{n}] s, float[{n}] b) => (float[B, {n}] y) {{
          y = qvit.{operator(bits, gelu)} <x_scale: float = 0.25, x_shift: float = {shift}, x_low: float = -8.0,
            x_high: float = 7.75, x_bits: int = 6, n: int = {n}, k: int = {k},
            plugin_namespace: string = "qvit", plugin_version: string = "1"> (x, packed, s, b)
        }}"""
    )
    model.functions.append(linear_function(bits, gelu))
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("bits", PACKED_BITS)
@pytest.mark.parametrize(("n", "k"), [(1, 1), (8, 64), (13, 70), (24, 128)])
@pytest.mark.parametrize("shift", [0.0, 2.75])
def test_the_body_multiplies_the_packed_integers(bits: int, n: int, k: int, shift: float) -> None:
    rng = np.random.default_rng(n * bits)
    codes = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (n, k), np.int8)
    x = rng.integers(-32, 32, (5, k))
    packed = pack(codes, bits).view(np.int8).reshape(packed_shape((n, k), bits))
    feed = {"packed": packed, "s": np.full(n, 0.5, np.float32), "b": np.arange(n, dtype=np.float32)}
    feed["x"] = (x * 0.25 - shift + rng.uniform(-0.12, 0.12, x.shape)).astype(np.float32)
    expected = (x @ codes.T.astype(np.int64)) * 0.125 + feed["b"]
    model = one_linear(bits, n, k, shift=shift)
    (y,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
    np.testing.assert_array_equal(y, expected)
    if (n, k) == (13, 70):
        np.testing.assert_array_equal(ReferenceEvaluator(model).run(None, feed)[0], expected)


def test_the_gelu_is_that_of_the_standard_operator() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(-8, 8, (13, 70), np.int8)
    feed = {
        "packed": pack(codes, 4).view(np.int8).reshape(packed_shape((13, 70), 4)),
        "s": np.full(13, 0.05, np.float32),
    }
    feed |= {"b": rng.standard_normal(13).astype(np.float32), "x": rng.standard_normal((5, 70)).astype(np.float32)}
    plain, activated = (
        ort.InferenceSession(one_linear(4, 13, 70, gelu).SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, feed
        )[0]
        for gelu in (False, True)
    )
    assert not np.array_equal(plain, activated)
    np.testing.assert_allclose(activated, gelu_of(plain), rtol=1e-6, atol=1e-7)


def gelu_of(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def fetched(proto: onnx.ModelProto, images: np.ndarray, name: str) -> np.ndarray:
    """A tensor in the middle of the graph, as ONNX Runtime computes it."""
    if name not in {o.name for o in proto.graph.output}:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    return run(session(proto.SerializeToString(), 1), Examples.images(images), None, [name])[0]


@pytest.mark.parametrize("widths", [(4, 4), (6, 6), (8, 8), (4, 8), (6, 4)])
def test_the_whole_graph_runs_in_onnx_runtime(calibrated: Calibrated, widths: tuple[int, int]) -> None:
    plan = calibrated.plan(widths)
    emitted = emit_qdq(calibrated.graph, plan)
    proto = emit_packed(emitted, plan).to_proto()
    onnx.checker.check_model(proto, full_check=True)
    carried = [site for site in plan.sites.values() if packable(site)]
    names = [node.op_type for node in proto.graph.node if node.domain == "qvit"]
    gelus = [site.site.name == "fc1" for site in carried]
    assert names == [operator(widths[0], gelu) for gelu in gelus] and len(carried) > 4 and sum(gelus) == 1
    images = calibrated.images.numpy()
    got = run(session(proto.SerializeToString(), 1), Examples.images(images))[0]
    wanted = run(session(emitted.serialize(), 1), Examples.images(images))[0]
    assert np.abs(got - wanted).max() <= 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("widths", [(4, 4), (6, 8)])
def test_packed_and_qdq_have_the_same_codes(calibrated: Calibrated, widths: tuple[int, int]) -> None:
    """Site by site: with one of them packed, what is in front of it stays the same in both graphs."""
    plan = calibrated.plan(widths)
    emitted = emit_qdq(calibrated.graph, plan)
    images = calibrated.images.numpy()
    by_output = {node.outputs[0].name: node for node in emitted.nodes()}
    for name in (name for name, site in plan.sites.items() if packable(site)):
        (product,) = by_output[f"{name}.weight.value"].outputs[0].consumers()
        value = product.inputs[0]
        dequantize = value.producer() if value is not None else None
        assert dequantize is not None and dequantize.inputs[0] is not None and dequantize.inputs[0].name is not None
        inlined = onnx.inliner.inline_local_functions(emit_packed(emitted, plan, [name]).to_proto())
        (codes,) = [n.output[0] for n in inlined.graph.node if n.output[0].startswith(FUNCTION_CODES)]
        ours = fetched(inlined, images, codes)
        theirs = fetched(emitted.to_proto(), images, dequantize.inputs[0].name)
        np.testing.assert_array_equal(ours, theirs)
        assert len(np.unique(ours)) > 4
        np.testing.assert_array_equal(unpack_of(inlined, f"{name}.weight.packed{widths[0]}", plan.sites[name]), True)


def unpack_of(proto: onnx.ModelProto, initializer: str, site: SitePlan) -> np.ndarray:
    """Where the codes in an initializer are those of the plan."""
    packed = next(onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == initializer)
    assert site.codes is not None
    k, n = site.codes.shape
    return unpack(packed.view(np.uint8), site.w_bits, (n, k)) == site.codes.T


def test_weights_take_their_bits() -> None:
    def weight_bytes(bits: int) -> int:
        return int(np.prod(packed_shape((384, 1536), bits)))

    assert weight_bytes(4) * 2 == weight_bytes(8) == 384 * 1536
    assert weight_bytes(6) * 4 == weight_bytes(8) * 3


def test_the_file_shrinks_with_the_bits(calibrated: Calibrated) -> None:
    sizes = {}
    for bits in PACKED_BITS:
        plan = calibrated.plan((bits, 8))
        proto = emit_packed(emit_qdq(calibrated.graph, plan), plan).to_proto()
        sizes[bits] = sum(len(t.raw_data) for t in proto.graph.initializer if ".packed" in t.name and t.data_type == 3)
    assert sizes[4] * 2 == sizes[8] and sizes[6] * 4 == sizes[8] * 3


def test_only_chosen_sites_and_no_bodies(calibrated: Calibrated) -> None:
    plan = calibrated.plan((4, 4))
    emitted = emit_qdq(calibrated.graph, plan)
    before = emitted.serialize()
    name = next(name for name, site in plan.sites.items() if packable(site))
    proto = onnx.load_from_string(without_plugin_bodies(emit_packed(emitted, plan, [name]).serialize()))
    assert [n.name for n in proto.graph.node if n.domain == "qvit"] == [f"{name}.qvit"] and not proto.functions
    assert emitted.serialize() == before
    with pytest.raises(ValueError, match="cannot be packed"):
        emit_packed(emitted, plan, ["nowhere"])


def test_no_site_leaves_the_graph_alone(calibrated: Calibrated) -> None:
    plan = calibrated.plan((8, 8))
    emitted = emit_qdq(calibrated.graph, plan)
    proto = emit_packed(emitted, plan, []).to_proto()
    assert {o.domain for o in proto.opset_import} == {""} and len(proto.graph.node) == len(list(emitted.nodes()))
