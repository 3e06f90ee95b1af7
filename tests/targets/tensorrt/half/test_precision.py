from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.tensorrt.half.emission import TensorrtGraph, emit_tensorrt
from qvit_deploy.targets.tensorrt.half.keep_fp32 import LARGEST, fits_scale
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph, to_half
from qvit_deploy.tasks.metrics import sqnr_db
from tests.support.graphs.half_graphs import constant_of, half, types, wide_vit
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit


@pytest.fixture(scope="module")
def wide() -> Calibrated:
    return calibrate(wide_vit(), (6, 8))


@pytest.fixture(scope="module")
def plan(wide: Calibrated) -> Plan:
    return half_scales(wide.plan((8, 8)))


def test_the_file_is_valid_strongly_typed_and_runs(wide: Calibrated, plan: Plan) -> None:
    in_half = half(wide, plan)
    onnx.checker.check_model(in_half.graph.to_proto(), full_check=True)
    assert in_half.float32 == {}
    known = types(in_half.graph)
    assert known["image"] == known["logits"] == "FLOAT"
    assert {known[n] for n in ("middle_out", "hidden_out", "out_out", "row_out")} == {"FLOAT16"}
    (logits,) = run(session(in_half.graph.serialize(), 1), Examples.images(wide.images.numpy()))
    assert logits.dtype == np.float32 and np.isfinite(logits).all()


def test_the_ends_of_a_part_are_float16(wide: Calibrated, plan: Plan) -> None:
    part = to_half(emit_tensorrt(wide.graph, plan), {}, ends=("image", "logits")).graph
    onnx.checker.check_model(part.to_proto(), full_check=True)
    known = types(part)
    assert known["image"] == known["logits"] == "FLOAT16" and not any(n.op_type == "Cast" for n in part.nodes())


def test_scales_have_the_type_of_their_tensor(wide: Calibrated, plan: Plan) -> None:
    in_half = half(wide, plan).graph
    known = types(in_half)
    for node in in_half.nodes():
        if node.op_type == "QuantizeLinear":
            scale = constant_of(in_half, node.outputs[0].name or "", 1)
            assert scale.dtype == (np.float16 if known[node.inputs[0].name] == "FLOAT16" else np.float32)
        if node.op_type == "DequantizeLinear":
            scale = constant_of(in_half, node.outputs[0].name or "", 1)
            assert scale.dtype == np.float16 and known[node.outputs[0].name] == "FLOAT16"


def test_nothing_is_cast_but_the_image_s_quantized_path_and_the_output(wide: Calibrated, plan: Plan) -> None:
    casts = [n.outputs[0].name for n in half(wide, plan).graph.nodes() if n.op_type == "Cast"]
    assert casts == ["logits"]


def test_the_image_reaches_its_quantizer_in_float32(wide: Calibrated, plan: Plan) -> None:
    """Casting it first would move pixels across rounding boundaries."""
    in_half = half(wide, plan).graph
    first = next(n for n in in_half.nodes() if n.op_type == "QuantizeLinear")
    assert types(in_half)[first.inputs[0].name] == "FLOAT"


def test_the_source_graph_is_left_alone(wide: Calibrated, plan: Plan) -> None:
    emitted = emit_tensorrt(wide.graph, plan)
    before = emitted.graph.serialize()
    assert to_half(emitted, {}).graph.serialize() == to_half(emitted, {}).graph.serialize()
    assert emitted.graph.serialize() == before


def test_tensors_that_pass_the_limit_and_their_readers_stay_in_float32() -> None:
    calibrated = calibrate(wide_vit(gain=3e4), (8,))
    plan = half_scales(calibrated.plan((8, 8)))
    in_half = half(calibrated, plan)
    known = types(in_half.graph)
    assert {known[n] for n in ("stream_out", "middle_out", "out_out")} == {"FLOAT"}
    assert known["hidden_out"] == "FLOAT16"
    assert {"stream_out", "middle_out", "out_out"} <= set(in_half.float32)
    assert "reaches" in in_half.float32["stream_out"]
    for node in in_half.graph.nodes():
        if node.op_type == "Cast":
            assert node.inputs[0].name not in ("stream_out", "middle_out", "out_out"), "a large tensor was narrowed"
    (logits,) = run(session(in_half.graph.serialize(), 1), Examples.images(calibrated.images.numpy()))
    assert np.isfinite(logits).all()


def test_the_limit_is_on_what_was_measured(wide: Calibrated, plan: Plan) -> None:
    emitted = emit_tensorrt(wide.graph, plan)
    assert "hidden_out" not in to_half(emitted, {"hidden_out": LARGEST}).float32
    assert "hidden_out" in to_half(emitted, {"hidden_out": LARGEST * 1.01}).float32
    assert "hidden_out" in to_half(emitted, {"hidden_out": float("inf")}).float32


def test_tensors_of_tiny_values_stay_in_float32() -> None:
    """A block behind a LayerScale near zero: its output would become 0."""
    calibrated = calibrate(wide_vit(gain=1e-7), (8,))
    in_half = half(calibrated, half_scales(calibrated.plan((8, 8))))
    assert "stays below" in in_half.float32["stream_out"]
    known = types(in_half.graph)
    assert known["stream_out"] == "FLOAT" and known["hidden_out"] == "FLOAT16"
    reference = session(emit_qdq(calibrated.graph, half_scales(calibrated.plan((8, 8)))).serialize(), 1)
    images = calibrated.images.numpy()
    assert (
        sqnr_db(
            run(reference, Examples.images(images))[0],
            run(session(in_half.graph.serialize(), 1), Examples.images(images))[0],
        )
        > 20
    )


def test_a_pair_read_in_both_types_is_written_twice(wide: Calibrated, plan: Plan) -> None:
    """q, k and v share a pair; when k overflows, its product gets the same codes in float32."""
    emitted = emit_tensorrt(wide.graph, plan)
    shared = plan.sites["attn.q"].site.input
    in_half = to_half(emitted, {plan.sites["attn.k"].site.product: 4e4}).graph
    pairs = [n for n in in_half.nodes() if n.op_type == "DequantizeLinear" and n.inputs[0].name == f"{shared}.q8"]
    known = types(in_half)
    assert sorted(known[n.outputs[0].name] for n in pairs) == ["FLOAT", "FLOAT16"]


def test_scales_float16_does_not_hold_keep_the_quantizer_in_float32(wide: Calibrated) -> None:
    unrounded = wide.plan((8, 8))
    in_half = half(wide, unrounded)
    inexact = {n for n, reason in in_half.float32.items() if "not exact" in reason}
    assert inexact and all(".q8" in name for name in inexact)
    for name in inexact:
        assert constant_of(in_half.graph, name, 1).dtype == np.float32


def test_tiny_weight_scales_keep_the_product_in_float32(wide: Calibrated, plan: Plan) -> None:
    site = plan.sites["fc1"]
    assert site.weight_scale is not None and site.codes is not None
    tiny = Plan({**plan.sites, "fc1": replace(site, weight_scale=site.weight_scale * np.float32(1e-5))})
    in_half = half(wide, tiny)
    assert {"fc1.product_out"} <= set(in_half.float32)
    assert types(in_half.graph)["fc1.weight.value.float32"] == "FLOAT"
    # A channel without any code may have any scale: it is not a reason.
    codes, scale = site.codes.copy(), site.weight_scale.copy()
    codes[:, 0], scale[0] = 0, 1e-12
    dead = half(wide, Plan({**plan.sites, "fc1": replace(site, codes=codes, weight_scale=scale)}))
    assert dead.float32 == {}
    assert constant_of(dead.graph, "fc1.weight.value", 1).min() > 0


def test_readers_at_another_width_and_a_convolution(plan: Plan) -> None:
    calibrated = calibrate(mixed_vit(), (4, 8))
    mixed = half_scales(calibrated.plan({s.name: (4, 4) if s.name == "attn.q" else (8, 8) for s in calibrated.sites}))
    graph: Graph = half(calibrated, mixed).graph
    onnx.checker.check_model(graph.to_proto(), full_check=True)
    names = [n.outputs[0].name for n in graph.nodes() if n.op_type == "QuantizeLinear"]
    norm = mixed.sites["attn.q"].site.input
    assert f"{norm}.q4" in names and f"{norm}.q8" in names


def converted(body: str, largest: dict[str, float], constants: str = "") -> HalfGraph:
    """A graph of float32 `image` [n, 4, 8] to `y`, written in ONNX's text format."""
    text = f"""<ir_version: 10, opset_import: ["": 21]>
        g (float[n, 4, 8] image) => (float[n, 4, 8] y) {constants} {{ {body} }}"""
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    in_half = to_half(TensorrtGraph(EmittedGraph(ir.from_proto(model), "g", {}), Plan({}), {}), largest)
    onnx.checker.check_model(in_half.graph.to_proto(), full_check=True)
    values = np.random.default_rng(0).standard_normal((2, 4, 8), np.float32)
    expected, got = (
        session(m, 1).run(None, {"image": values})[0] for m in (model.SerializeToString(), in_half.graph.serialize())
    )
    np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-2)
    return in_half


def test_what_an_attribute_makes_float32_is_cast_for_its_readers() -> None:
    in_half = converted(
        "s = Shape (image) o = ConstantOfShape <value = float[1] {2.0}> (s) h = Exp (image) y = Mul (h, o)", {"o": 2.0}
    )
    assert types(in_half.graph)["o"] == "FLOAT" and types(in_half.graph)["h"] == "FLOAT16" and in_half.float32 == {}


def test_float16_models_inner_casts_follow_their_node() -> None:
    in_half = converted("i = Cast <to = 7> (image) f = Cast <to = 1> (i) y = Add (f, image)", {})
    assert types(in_half.graph)["f"] == "FLOAT16"


@pytest.mark.parametrize(("largest", "stays"), [(100.0, False), (4000.0, True)])
def test_sums_that_could_overflow_stay_in_float32(largest: float, stays: bool) -> None:
    constants = "<int64[1] axes = {2}>"
    in_half = converted("e = Exp (image) m = ReduceMean (e, axes) y = Sub (e, m)", {"e": largest}, constants)
    assert ("m" in in_half.float32) == stays
    assert types(in_half.graph)["e"] == "FLOAT16"


@pytest.mark.parametrize("number", ["1e-12", "1e6"])
def test_constants_float16_cannot_hold_stay_in_float32(number: str) -> None:
    """A guard against dividing by zero must not become zero."""
    constants = f"<float c = {{{number}}}>"
    in_half = converted("e = Exp (image) m = Max (e, c) y = Div (e, m)", {"m": max(float(number), 20.0)}, constants)
    assert "m" in in_half.float32 and types(in_half.graph)["e"] == "FLOAT16"


@given(st.floats(1e-9, 1e5))
def test_a_scale_fits_when_float16_keeps_ten_bits_of_it(scale: float) -> None:
    value = np.array([scale], np.float32)
    with np.errstate(over="ignore"):
        rounded = value.astype(np.float16).astype(np.float64)
    relative = abs(rounded[0] / float(value[0]) - 1) if np.isfinite(rounded[0]) and rounded[0] > 0 else 1.0
    assert fits_scale(value) == (relative <= 2**-10)
