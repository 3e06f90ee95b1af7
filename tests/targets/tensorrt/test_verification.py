from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import CheckError
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.half import half_scales
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.onnxruntime.tensors import probe
from qvit_deploy.targets.tensorrt import verification as half_verification
from qvit_deploy.targets.tensorrt.half.precision import HalfGraph
from qvit_deploy.targets.tensorrt.packed.linear import FUNCTION_CODES, FUNCTION_INPUT, pack_linears
from qvit_deploy.targets.tensorrt.verification import HalfVerification, verify_half
from tests.support.graphs.half_graphs import half, types, wide_vit
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, canonical, fixed_batch, mixed_vit
from tests.support.graphs.relevance_graphs import Builder


def verified(
    calibrated: Calibrated, plan: Plan, changed: Callable[[Graph], None] | None = None, packed: bool = False
) -> HalfVerification:
    emitted = half(calibrated, plan)
    if packed:
        emitted = pack_linears(emitted)
    if changed is not None:
        emitted = replace(emitted, graph=emitted.graph.clone())
        changed(emitted.graph)
    return verify_half(
        calibrated.graph, emit_qdq(calibrated.graph, plan), emitted, Examples.images(calibrated.images.numpy())
    )


def scaled(name: str, by: float) -> Callable[[Graph], None]:
    """Multiplies one constant."""

    def change(graph: Graph) -> None:
        value = graph.model.graph.initializers[name]
        array = constant(value)
        assert array is not None
        with np.errstate(over="ignore"):
            value.const_value = ir.tensor((array * np.float64(by)).astype(array.dtype), name=name)

    return change


@pytest.fixture(scope="module")
def wide() -> Calibrated:
    return calibrate(wide_vit(), (4, 6, 8), attention=True)


@pytest.fixture(scope="module")
def plan(wide: Calibrated) -> Plan:
    return half_scales(wide.plan((6, 6)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_fixed_batch_passes(wide: Calibrated, bits: int, packed: bool) -> None:
    """With all sizes known ONNX Runtime makes a Gemm of a product and a bias of one axis, and breaks on its codes."""
    fixed = replace(wide, graph=fixed_batch(wide.graph, len(wide.images)))
    widths = {s.name: (bits, bits) for s in wide.sites if s.kind == "linear"}
    verification = verified(fixed, half_scales(wide.plan(widths)), packed=packed)
    assert verification.code_mismatches == 0 and verification.sites == len(widths)
    assert bool(verification.packed) == packed


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_codes_are_equal_at_every_site_given_equal_inputs(wide: Calibrated, bits: int) -> None:
    plan = half_scales(wide.plan((bits, bits)))
    verification = verified(wide, plan)
    assert verification.code_mismatches == 0 and verification.worst_site_error < half_verification.OUTPUT_TOLERANCE
    assert verification.sites == len(plan.sites) - len(verification.in_float)
    norm, tokens = 32 * 16, 16 * 16 * 2
    per_image = 4 * 16 * 8 + norm + norm + norm + 2 * norm + 32  # embed, qkv, proj, fc1, fc2, head
    attention = 3 * norm + tokens if bits < 8 else 0
    assert verification.codes == 4 * (per_image + attention)
    assert 0.8 < verification.free_codes_equal < 1 and verification.reference_sqnr_db > 15


@pytest.mark.parametrize("widths", [(4, 4), (6, 8), (8, 6)])
def test_packed_operators_have_the_same_codes(wide: Calibrated, widths: tuple[int, int]) -> None:
    plan = half_scales(wide.plan(widths))
    verification, plain = verified(wide, plan, packed=True), verified(wide, plan)
    assert verification.packed == len(plan.weights()) == 8 and plain.packed == 0
    assert verification.code_mismatches == 0 and verification.worst_site_error < half_verification.OUTPUT_TOLERANCE
    # q, k and v read one quantizer there, and have one each here.
    assert verification.codes == plain.codes + 2 * 4 * 16 * 32
    assert verification.reference_sqnr_db > plain.reference_sqnr_db - 3


def test_a_shift_is_part_of_the_packed_operator(wide: Calibrated) -> None:
    sites = dict(wide.plan((6, 6)).sites)
    sites["fc2"] = replace(sites["fc2"], grid=ActivationGrid(Int(6), 0.0371, 0.613))
    plan = half_scales(Plan(sites))
    assert verified(wide, plan, packed=True).code_mismatches == 0
    graph = pack_linears(half(wide, plan)).graph
    (call,) = [n for n in graph.nodes() if n.name == "fc2.qvit"]
    assert call.attributes.get_float("x_shift") == np.float32(0.613)
    producer = call.inputs[0].producer() if call.inputs[0] is not None else None
    assert producer is not None and producer.op_type == "QLinearW6Gelu"


@pytest.mark.parametrize("name", ["attn.proj", "fc1"])
def test_a_bias_behind_an_island_is_added_once(wide: Calibrated, name: str) -> None:
    """Weight scales that float16 does not hold keep the product in float32; its sum with the bias is float16."""
    plan = half_scales(wide.plan((8, 8)))
    site = plan.sites[name]
    assert site.weight_scale is not None and site.bias is not None and np.abs(site.bias).max() > 0.01
    scale = np.concatenate([site.weight_scale[:1] * np.float32(1e-5), site.weight_scale[1:]])
    plan = Plan({**plan.sites, name: replace(site, weight_scale=scale)})
    assert f"{site.site.product}" in half(wide, plan).float32
    assert verified(wide, plan, packed=True).worst_site_error < 1e-3
    calls = {n.name: n for n in pack_linears(half(wide, plan)).graph.nodes() if n.domain == "qvit"}
    assert calls[f"{name}.qvit"].op_type == ("QLinearW8Gelu" if name == "fc1" else "QLinearW8")


def test_packed_rows_of_an_island_stay_float32() -> None:
    """Only what the operators make is narrowed again, where the graph has it in float16."""
    calibrated = calibrate(wide_vit(gain=3e4), (8,))
    plan = half_scales(calibrated.plan((8, 8)))
    verification = verified(calibrated, plan, packed=True)
    assert "stream_out" in verification.float32 and verification.code_mismatches == 0
    for name, expected in types(pack_linears(half(calibrated, plan)).graph).items():
        assert expected in ("FLOAT", "FLOAT16", "INT8", "INT64"), name


def narrow_layers() -> Graph:
    """Linears whose 20 and 18 input channels fill no whole number of 16-byte words in float16."""
    b = Builder(0)
    x = b.linear(b.op("Reshape", "image", b.constant([0, 16, 32])), 32, 20, "first")
    x = b.linear(b.layer_norm(x, 20, "norm"), 20, 18, "twenty")
    x = b.linear(b.layer_norm(x, 18, "norm2"), 18, 32, "eighteen")
    return canonical(
        b, b.linear(b.op("Gather", x, b.constant(np.int64(0)), axis=1), 32, 16, "head", "logits"), (4, 16, 8)
    )


def test_rows_are_aligned_or_left_alone() -> None:
    calibrated = calibrate(narrow_layers(), (6,))
    plan = half_scales(calibrated.plan((6, 6)))
    emitted = pack_linears(half(calibrated, plan))
    assert emitted.packed == ("first", "twenty", "head") and len(plan.sites) == 4
    calls = {n.name: n for n in emitted.graph.nodes() if n.domain == "qvit"}
    kinds = {name: call.inputs[0].dtype for name, call in calls.items() if call.inputs[0] is not None}
    assert kinds["twenty.qvit"] == ir.DataType.FLOAT and kinds["head.qvit"] == ir.DataType.FLOAT16
    (wide,) = calls["twenty.qvit"].outputs
    assert wide.dtype == ir.DataType.FLOAT
    assert [(n.op_type, n.outputs[0].dtype) for n in wide.consumers()] == [("Cast", ir.DataType.FLOAT16)]
    assert verified(calibrated, plan, packed=True).code_mismatches == 0


@pytest.mark.parametrize("attribute", ["x_scale", "x_shift", "k", "x_bits"])
def test_a_wrong_number_of_a_packed_operator_is_found(wide: Calibrated, plan: Plan, attribute: str) -> None:
    def change(graph: Graph) -> None:
        (call,) = [n for n in graph.nodes() if n.name == "fc1.qvit"]
        old = call.attributes[attribute]
        call.attributes[attribute] = ir.Attr(attribute, old.type, old.value + 1)

    with pytest.raises(CheckError, match=r"'fc1' was not emitted as planned"):
        verified(wide, plan, change, packed=True)


def test_wrong_codes_of_a_packed_operator_are_found(
    wide: Calibrated, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The structure check switched off: the body alone, with one quantizer that rounds other numbers."""

    def change(graph: Graph) -> None:
        for function in graph.model.functions.values():
            for node in function:
                if node.outputs[0].name == FUNCTION_CODES:
                    node.replace_input_with(0, next(v for n in function for v in n.outputs if v.name == FUNCTION_INPUT))

    monkeypatch.setattr(half_verification, "_require_plan", lambda *_: None)
    with pytest.raises(CheckError, match=r"codes of '.*' differ"):
        verified(wide, plan, change, packed=True)


def test_a_wrong_packed_weight_is_found(wide: Calibrated, plan: Plan) -> None:
    with pytest.raises(CheckError, match=r"'fc2' was not emitted as planned"):
        verified(wide, plan, scaled("fc2.weight.packed6", 0), packed=True)


def test_convolutions_rows_and_sites_left_in_float(wide: Calibrated) -> None:
    calibrated = calibrate(mixed_vit(), (8,), attention=True)
    verification = verified(calibrated, half_scales(calibrated.plan((8, 8))))
    assert set(verification.in_float) == {"head", "attn.qk", "attn.av"} and verification.sites == 8


def test_float32_islands_are_verified_too() -> None:
    calibrated = calibrate(wide_vit(gain=3e4), (8,))
    verification = verified(calibrated, half_scales(calibrated.plan((8, 8))))
    assert "stream_out" in verification.float32 and verification.code_mismatches == 0


def test_unrounded_scales_are_exact_through_float32(wide: Calibrated) -> None:
    verification = verified(wide, wide.plan((8, 8)))
    assert verification.code_mismatches == 0 and any("not exact" in reason for reason in verification.float32.values())


def test_a_scale_rounded_in_the_file_alone_is_found(wide: Calibrated, plan: Plan) -> None:
    name = f"{plan.sites['fc1'].site.input}.q6.scale.float16"
    with pytest.raises(CheckError, match=r"'fc1' was not emitted as planned"):
        verified(wide, plan, scaled(name, 1 + 2**-9))


def test_codes_that_differ_are_counted_and_named(wide: Calibrated, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The structure check, which comes first and finds it too, switched off: the numbers alone find a wrong scale."""
    monkeypatch.setattr(half_verification, "_require_plan", lambda *_: None)
    name = plan.sites["fc1"].site.input
    with pytest.raises(CheckError, match=rf"codes of '{name}.q6' differ"):
        verified(wide, plan, scaled(f"{name}.q6.scale.float16", 1.01))


def test_a_site_whose_output_is_off_is_named(wide: Calibrated, plan: Plan) -> None:
    with pytest.raises(CheckError, match=r"site 'fc1' gives an output off by"):
        verified(wide, plan, scaled("fc1.bias.corrected.float16", 1.2))


def test_a_wrong_weight_is_found_before_anything_runs(wide: Calibrated, plan: Plan) -> None:
    with pytest.raises(CheckError, match=r"'fc2' was not emitted as planned"):
        verified(wide, plan, scaled("fc2.weight.q6", 0))


def test_an_overflow_is_found(wide: Calibrated, plan: Plan) -> None:
    with pytest.raises(CheckError, match=r"NaN or infinity"):
        verified(wide, plan, scaled("head.bias.corrected.float16", 1e9))


def test_logits_that_lost_too_much_are_refused(wide: Calibrated, plan: Plan) -> None:
    with pytest.raises(CheckError, match=r"SQNR against the float model from .* use more"):
        verified(wide, plan, scaled("norm2.bias.float16", -3))


def test_a_site_that_is_missing_is_named(wide: Calibrated, plan: Plan) -> None:
    emitted = half(wide, Plan({n: s for n, s in plan.sites.items() if n != "fc2"}))
    whole = HalfGraph(emitted.graph, plan, {}, {})
    with pytest.raises(CheckError, match=r"'fc2' was not emitted"):
        verify_half(wide.graph, emit_qdq(wide.graph, plan), whole, Examples.images(wide.images.numpy()))


def test_noise_below_that_of_float16_is_not_asked_for(
    wide: Calibrated, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that quantization hardly changes may lose more than the usual three decibels to float16."""
    # Limits moved to where a small model is: one that quantization hardly changes has no place in a test.
    monkeypatch.setattr(half_verification, "LOST_DB", -3.0)
    with pytest.raises(CheckError, match=r"takes the SQNR against the float model from 2.\.. to 2.\.. dB"):
        verified(wide, plan)
    monkeypatch.setattr(half_verification, "FLOAT16_DB", 10.0)
    assert verified(wide, plan).float_sqnr_db > 20


def test_an_output_that_its_bias_cancels_is_as_exact_as_the_bias(wide: Calibrated, plan: Plan) -> None:
    """A shift far larger than the values: the products of it are in the bias, with the other sign."""
    site, shift = plan.sites["fc2"], 60.0
    assert site.codes is not None and site.weight_scale is not None and site.bias is not None
    bias = site.bias - shift * (site.codes * site.weight_scale).sum(axis=0)
    moved = Plan({**plan.sites, "fc2": replace(site, grid=ActivationGrid(Int(8), 0.5, shift), bias=bias)})
    emitted = half(wide, moved)
    (probed,) = probe(emitted.graph, Examples.images(wide.images.numpy()), [site.site.output])
    assert np.abs(bias).max() > 20 * np.abs(probed).max()
    assert verified(wide, moved).worst_site_error < half_verification.OUTPUT_TOLERANCE


@pytest.mark.parametrize("packed", [False, True])
def test_a_product_that_is_an_output_of_the_model_is_verified(packed: bool) -> None:
    """A head without bias: its product has the output's name, which the cast behind it takes."""
    b = Builder(0)
    hidden = b.op("Gelu", b.linear(b.op("Reshape", "image", b.constant([0, 32])), 32, 32, "embed"))
    head = b.op("MatMul", hidden, b.normal(32, 16, scale=0.2, name="head.weight"), name="logits")
    calibrated = calibrate(canonical(b, head, (2, 4, 4)), (8,))
    verification = verified(calibrated, half_scales(calibrated.plan((8, 8))), packed=packed)
    assert verification.sites == 2 and verification.code_mismatches == 0
