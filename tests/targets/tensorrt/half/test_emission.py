from __future__ import annotations

import pytest

from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.tensorrt.half.emission import emit_tensorrt
from tests.support.graphs.half_graphs import wide_vit
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit


@pytest.fixture(scope="module")
def wide() -> Calibrated:
    return calibrate(wide_vit(), (6, 8), attention=True)


def quantizers(graph: Graph) -> list[str]:
    return [n.outputs[0].name or "" for n in graph.nodes() if n.op_type == "QuantizeLinear"]


def test_one_pair_serves_all_readers_of_a_tensor(wide: Calibrated) -> None:
    plan = wide.plan((8, 8))
    emitted = emit_tensorrt(wide.graph, plan).graph
    shared = plan.sites["attn.q"].site.input
    assert len(quantizers(emitted)) == len(set(quantizers(emitted)))
    (pair,) = [n for n in emitted.nodes() if n.op_type == "DequantizeLinear" and n.inputs[0].name == f"{shared}.q8"]
    assert {u.node.outputs[0].name for u in pair.outputs[0].uses()} == {
        plan.sites[f"attn.{p}"].site.product for p in "qkv"
    }


def test_no_quantizer_touches_residual_additions_or_outputs(wide: Calibrated) -> None:
    emitted = emit_tensorrt(wide.graph, wide.plan((8, 8))).graph
    for node in emitted.nodes():
        if node.op_type == "DequantizeLinear":
            assert {u.node.op_type for u in node.outputs[0].uses()} <= {"MatMul", "Conv"}


@pytest.mark.parametrize("bits", [6, 8])
def test_attention_is_quantized_whole_where_its_grids_are_plain(wide: Calibrated, bits: int) -> None:
    """At 8 bits the probabilities' codes need a shift, which stands in the way of the fusion."""
    emitted = emit_tensorrt(wide.graph, wide.plan((bits, bits)))
    attention = {"attn.qk", "attn.av"}
    assert attention <= set(emitted.plan.sites) if bits == 6 else set(emitted.in_float) == attention
    if bits == 8:
        assert "shifted" in emitted.in_float["attn.qk"]


def test_half_an_attention_is_not_quantized(wide: Calibrated) -> None:
    plan = wide.plan((6, 6))
    less = Plan({name: site for name, site in plan.sites.items() if name != "attn.av"})
    assert "both or none" in emit_tensorrt(wide.graph, less).in_float["attn.qk"]
    less = Plan({name: site for name, site in plan.sites.items() if name != "attn.qk"})
    assert set(emit_tensorrt(wide.graph, less).in_float) == {"attn.av"}


def test_a_bias_before_the_softmax_keeps_attention_in_float() -> None:
    calibrated = calibrate(wide_vit(bias_before_softmax=True), (6,), attention=True)
    emitted = emit_tensorrt(calibrated.graph, calibrated.plan((6, 6)))
    assert set(emitted.in_float) == {"attn.qk", "attn.av"}
    assert "between" in emitted.in_float["attn.qk"]


def test_long_sequences_keep_attention_in_float() -> None:
    calibrated = calibrate(wide_vit(tokens=513), (6,), attention=True, images=2)
    emitted = emit_tensorrt(calibrated.graph, calibrated.plan((6, 6)))
    assert emitted.in_float["attn.qk"] == emitted.in_float["attn.av"]
    assert "513 keys" in emitted.in_float["attn.qk"]


def test_narrow_products_stay_in_float_with_their_own_weights() -> None:
    calibrated = calibrate(mixed_vit(), (8,), attention=True)
    emitted = emit_tensorrt(calibrated.graph, calibrated.plan((8, 8)))
    assert set(emitted.in_float) == {"head", "attn.qk", "attn.av"}
    assert "5 output channels" in emitted.in_float["head"] and "product of 4" in emitted.in_float["attn.qk"]
    assert "head.weight" in emitted.graph.initializers and "head.weight.q8" not in emitted.graph.initializers


def test_every_grid_that_is_not_one_quantizer_keeps_attention_in_float() -> None:
    for options in ({"rows": True}, {"softmax": "log2"}, {"softmax": "levels"}, {"granularity": "head"}):
        calibrated = calibrate(wide_vit(), (4,), attention=True, **options)
        emitted = emit_tensorrt(calibrated.graph, calibrated.plan((4, 4)))
        assert set(emitted.in_float) == {"attn.qk", "attn.av"}, options


def test_widths_below_8_clip_before_they_quantize(wide: Calibrated) -> None:
    emitted = emit_tensorrt(wide.graph, wide.plan((6, 6))).graph
    by_output = {n.outputs[0].name: n for n in emitted.nodes()}
    for name in quantizers(emitted):
        source = by_output[name].inputs[0].producer()
        assert source is not None and source.op_type == "Clip"
