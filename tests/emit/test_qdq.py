from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.targets.onnxruntime.runtime import fusion, run, session
from qvit_deploy.targets.onnxruntime.verification import verify
from tests.support.graphs.convolution_graphs import DEPTHWISE, OTHERS, pyramid
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, canonical, logits, mixed_vit, node_making
from tests.support.graphs.relevance_graphs import Builder

WIDTHS = [(2, 8), (8, 2), (3, 5), (4, 4), (5, 3), (6, 6), (7, 7), (8, 8)]


def fetched(graph: Graph, images: torch.Tensor, names: list[str]) -> list[np.ndarray]:
    """Tensors in the middle of the graph, as ONNX Runtime computes them."""
    proto = graph.to_proto()
    known = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    return run(session(proto.SerializeToString(), 1), Examples.images(images.numpy()), graph.static_batch, names)


def assert_runs_alike(emitted: Graph, images: torch.Tensor) -> None:
    """ONNX Runtime and the executor, free running: a tie that falls the other way may change one image."""
    expected = logits(emitted, images)
    got = run(session(emitted.serialize(), 1), Examples.images(images.numpy()))[0]
    changed = np.abs(got - expected).max(axis=1) > 1e-3 * np.abs(expected).max()
    assert changed.sum() <= 1


def constant_input(graph: Graph, output: str, index: int) -> np.ndarray:
    value = constant(node_making(graph, output).inputs[index])
    assert value is not None
    return value


def of_type(graph: Graph, op_type: str) -> list[str]:
    return [n.outputs[0].name or "" for n in graph.nodes() if n.op_type == op_type]


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(head_bias=False, qkv_bias=False), tuple(range(2, 9)), attention=True)


@pytest.mark.parametrize(("w_bits", "a_bits"), WIDTHS)
def test_the_emitted_graph_holds_and_computes_the_planned_codes(
    calibrated: Calibrated, w_bits: int, a_bits: int
) -> None:
    plan = calibrated.plan((w_bits, a_bits))
    emitted = emit_qdq(calibrated.graph, plan)
    onnx.checker.check_model(emitted.to_proto(), full_check=True)
    assert_runs_alike(emitted, calibrated.images)

    for site in plan.weights().values():
        value = f"{site.site.name}.weight.value"
        codes, scale = (constant_input(emitted, value, i) for i in (0, 1))
        np.testing.assert_array_equal(codes, site.codes)
        np.testing.assert_array_equal(scale, site.weight_scale)
        shape = (-1, 1, 1, 1) if site.site.kind == "conv" else (-1,)
        (dequantized,) = fetched(emitted, calibrated.images[:1], [value])
        np.testing.assert_array_equal(dequantized, codes.astype(np.float32) * scale.reshape(shape))

    quantizers = of_type(emitted, "QuantizeLinear")
    second = {f"{site.site.second}.q{w_bits}" for site in plan.products().values()}
    probabilities = {f"{site.site.input}.q{a_bits}" for site in plan.sites.values() if site.site.kind == "matmul_av"}
    for name, codes in zip(quantizers, fetched(emitted, calibrated.images, quantizers), strict=True):
        low, high = Int(w_bits if name.removesuffix(".2") in second else a_bits).range
        if name in probabilities and a_bits < 8:
            low, high = 0, 2**a_bits - 1
        assert codes.dtype == np.int8 and codes.min() >= low and codes.max() <= high and len(np.unique(codes)) > 1


@pytest.mark.parametrize("bits", [4, 8])
def test_every_zero_point_is_zero_and_every_container_int8(calibrated: Calibrated, bits: int) -> None:
    emitted = emit_qdq(calibrated.graph, calibrated.plan((bits, bits)))
    for output in of_type(emitted, "QuantizeLinear") + of_type(emitted, "DequantizeLinear"):
        zero = constant_input(emitted, output, 2)
        assert zero.dtype == np.int8 and not zero.any()
    assert (of_type(emitted, "Clip") == []) == (bits == 8)


def test_quantizers_stand_on_the_inputs_of_sites_only_one_pair_for_each(calibrated: Calibrated) -> None:
    plan = calibrated.plan((4, 4))
    emitted = emit_qdq(calibrated.graph, plan)
    values = {v.name: v for n in emitted.nodes() for v in n.outputs}
    pairs = of_type(emitted, "DequantizeLinear")
    for name in pairs:
        (use,) = values[name].uses()
        assert use.node.op_type in ("MatMul", "Conv")
    for name in of_type(emitted, "QuantizeLinear"):
        (use,) = values[name].uses()
        assert use.node.op_type == "DequantizeLinear"
    assert len(pairs) == 2 * len(plan.sites)
    clips = of_type(emitted, "Clip")
    assert len(clips) == len({(p.site.input, p.a_bits) for p in plan.sites.values()}) + 2  # key and value


def test_readers_at_different_widths_each_get_their_own_grid(calibrated: Calibrated) -> None:
    plan = calibrated.plan({"attn.q": (4, 4), "attn.k": (8, 8), "attn.v": (4, 8)})
    emitted = emit_qdq(calibrated.graph, plan)
    norm = plan.sites["attn.q"].site.input
    assert sorted(of_type(emitted, "QuantizeLinear")) == [f"{norm}.q4", f"{norm}.q8", f"{norm}.q8.2"]
    assert_runs_alike(emitted, calibrated.images)


@pytest.mark.parametrize("head_bias", [True, False])
@pytest.mark.parametrize("compensate", ["none", "bias"])
def test_a_head_on_rows_is_lifted_and_keeps_its_output(head_bias: bool, compensate: str) -> None:
    calibrated = calibrate(mixed_vit(head_bias=head_bias), (8,))
    emitted = emit_qdq(calibrated.graph, calibrated.plan({"head": (8, 8)}, compensate))
    (output,) = emitted.outputs
    assert output.name == "logits" and [str(d) for d in output.shape or ()] == ["batch", "5"]
    assert len(of_type(emitted, "Unsqueeze")) == len(of_type(emitted, "Squeeze")) == 1
    assert fusion(emitted.serialize()).integer_products == 1
    assert logits(emitted, calibrated.images).shape == (6, 5)
    assert_runs_alike(emitted, calibrated.images)


def test_a_bias_added_in_the_middle_keeps_the_names_readers_know() -> None:
    """Two linears without biases, one right after the other: the second one's input is the first one's output."""
    b = Builder()
    x = b.op("MatMul", b.op("Reshape", "image", b.constant([0, 4, 16])), b.normal(16, 32, name="a.weight"))
    x = b.op("MatMul", x, b.normal(32, 16, name="b.weight"))
    pooled = b.op("ReduceMean", x, b.constant([1]), keepdims=0)
    calibrated = calibrate(canonical(b, b.linear(pooled, 16, 5, "head", "logits"), (1, 4, 16)), (6,))
    plan = calibrated.plan((6, 6), "gptq")
    emitted = emit_qdq(calibrated.graph, plan)
    onnx.checker.check_model(emitted.to_proto(), full_check=True)
    assert {f"{s.site.input}.q6" for s in plan.sites.values()} == set(of_type(emitted, "QuantizeLinear"))
    assert_runs_alike(emitted, calibrated.images)


def test_the_source_graph_is_left_alone_and_unused_weights_go(calibrated: Calibrated) -> None:
    before = calibrated.graph.serialize()
    emitted = emit_qdq(calibrated.graph, calibrated.plan((4, 4)))
    assert calibrated.graph.serialize() == before
    assert "fc1.weight" in calibrated.graph.initializers and "fc1.weight" not in emitted.initializers
    assert len(emitted.serialize()) < len(before)
    assert emitted.serialize() == emit_qdq(calibrated.graph, calibrated.plan((4, 4))).serialize()


def test_swin_at_4_bits(tiny_swin: Graph) -> None:
    calibrated = calibrate(tiny_swin, (4,), images=4)
    emitted = emit_qdq(tiny_swin, calibrated.plan((4, 4)))
    onnx.checker.check_model(emitted.to_proto(), full_check=True)
    assert fusion(emitted.serialize()).integer_products == len(calibrated.sites)
    assert_runs_alike(emitted, calibrated.images)


@pytest.mark.parametrize("bits", [4, 8])
def test_biases_of_convolutions_in_front_of_quantizers_are_not_rounded(bits: int) -> None:
    """ONNX Runtime makes an int32 of such a bias, in steps of input scale x weight scale."""
    calibrated = calibrate(pyramid(), (bits,))
    emitted = emit_qdq(calibrated.graph, calibrated.plan((bits, bits)))
    apart = {name for name in (*DEPTHWISE, *OTHERS) if emitted.sites[name].product != emitted.sites[name].output}
    assert apart == {"deep", "grouped"}
    verification = verify(
        calibrated.graph, emitted, calibrated.plan((bits, bits)), Examples.images(calibrated.images.numpy())
    )
    assert verification.worst_site_error is not None and verification.worst_site_error < 1e-5
    free = logits(emitted, calibrated.images)
    (got,) = run(session(emitted.serialize(), 1), Examples.images(calibrated.images.numpy()))
    assert np.median(np.abs(got - free)) <= 1e-5 * np.abs(free).max()
    whole = emit_qdq(calibrated.graph, calibrated.plan((bits, bits)), for_onnxruntime=False)
    assert whole.sites["deep"].product == whole.sites["deep"].output


def test_nor_is_the_bias_of_one_that_is_also_an_output() -> None:
    """ONNX Runtime does not count outputs of a graph as readers of the convolution."""
    graph = pyramid()
    (conv,) = (site for site in find_sites(graph) if site.name == "grouped")
    graph.model.graph.outputs.append(node_making(graph, conv.output).outputs[0])
    calibrated = calibrate(graph, (4,))
    emitted = emit_qdq(calibrated.graph, calibrated.plan((4, 4)))
    assert [value.name for value in emitted.model.graph.outputs] == ["logits", conv.output]
    assert emitted.sites["grouped"].product != emitted.sites["grouped"].output == conv.output
    verification = verify(
        calibrated.graph, emitted, calibrated.plan((4, 4)), Examples.images(calibrated.images.numpy())
    )
    assert verification.worst_site_error is not None and verification.worst_site_error < 1e-5
