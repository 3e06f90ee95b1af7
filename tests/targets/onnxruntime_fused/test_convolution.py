"""Which convolutions run on integers, that ONNX Runtime keeps them there, and that they compute the planned sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.errors import CheckError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.onnxruntime import runtime
from qvit_deploy.targets.onnxruntime.tensors import fetched
from qvit_deploy.targets.onnxruntime.verification import verify
from qvit_deploy.targets.onnxruntime_fused import convolution
from qvit_deploy.targets.onnxruntime_fused.emission import emit_fused
from qvit_deploy.targets.onnxruntime_fused.verification import verify_fused
from tests.support.graphs.convolution_graphs import DEPTHWISE, OTHERS, pyramid
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, fixed_batch
from tests.support.models.runtime_models import changed

pytestmark = pytest.mark.skipif(not runtime.convolves_int8(), reason="ONNX Runtime before 1.24")


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(pyramid(), (4, 8))


@pytest.fixture(scope="module", params=[4, 8])
def plan(request: pytest.FixtureRequest, calibrated: Calibrated) -> Plan:
    return calibrated.plan((request.param, request.param))


@pytest.fixture(scope="module")
def emitted(calibrated: Calibrated, plan: Plan) -> EmittedGraph:
    return emit_qdq(calibrated.graph, plan)


def integer_node(fused: RuntimeModel, site: str) -> onnx.NodeProto:
    return next(
        n for n in fused.proto.graph.node if n.op_type == "ConvInteger" and n.input[1].startswith(f"{site}.weight")
    )


def test_every_convolution_but_depthwise_ones_runs_on_integers(
    calibrated: Calibrated, plan: Plan, emitted: EmittedGraph
) -> None:
    fused = emit_fused(emitted)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(fused.proto))
    optimized = runtime.fusion(fused.serialize())
    assert optimized.ops["ConvInteger"] == len(OTHERS) == len(fused.convolutions)
    assert set(fused.convolutions) == {emitted.sites[name].product for name in OTHERS}
    assert set(fused.convolutions.values()) <= optimized.integer_weights
    verification = verify_fused(calibrated.graph, emitted, fused, plan, Examples.images(calibrated.images.numpy()))
    assert verification.code_mismatches == 0 and verification.worst_site_error is not None
    assert verification.worst_site_error < 1e-5
    assert verification.integer_products == len(OTHERS) + 2
    assert verification.in_float == dict.fromkeys(DEPTHWISE, convolution.DEPTHWISE)


def test_in_the_q_dq_file_all_of_them_run_in_float_and_are_named(
    calibrated: Calibrated, plan: Plan, emitted: EmittedGraph
) -> None:
    verification = verify(calibrated.graph, emitted, plan, Examples.images(calibrated.images.numpy()))
    assert set(verification.float_products) == {*OTHERS, *DEPTHWISE}
    assert verification.integer_products == verification.expected_integer_products == 2


@pytest.mark.parametrize("site", OTHERS)
def test_the_sums_are_those_of_the_codes(calibrated: Calibrated, plan: Plan, emitted: EmittedGraph, site: str) -> None:
    """Padding counts as code 0, and every sum is the plan's, integer for integer."""
    fused, images = emit_fused(emitted), Examples.images(calibrated.images.numpy()[:2])
    node = integer_node(fused, site)
    fetch = [node.input[0], node.output[0]]
    copy = onnx.ModelProto()
    copy.CopyFrom(fused.proto)
    codes, sums = fetched(copy, images, None, fetch)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    pad, step = attributes["pads"][0], attributes.get("strides", [1])[0]
    reach, groups = attributes.get("dilations", [1])[0], attributes.get("group", 1)
    weight = plan.weights()[site].codes.astype(np.int64)
    x = np.pad(codes.astype(np.int64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    expected = np.zeros(sums.shape, np.int64)
    height, width = sums.shape[2:]
    per_group = weight.shape[1]
    for channel, kernel in enumerate(weight):
        first = channel // (len(weight) // groups) * per_group
        for i, row, column in np.ndindex(weight.shape[1:]):
            top, left = row * reach, column * reach
            window = x[:, first + i, top : top + step * height : step, left : left + step * width : step]
            expected[:, channel] += kernel[i, row, column] * window
    assert sums.dtype == np.int32
    np.testing.assert_array_equal(sums, expected)


def test_convolutions_on_one_tensor_share_a_quantizer(plan: Plan, emitted: EmittedGraph) -> None:
    fused = emit_fused(emitted)
    assert len({integer_node(fused, site).input[0] for site in ("cls", "box", "down")}) == 1
    quantizers = [n for n in fused.proto.graph.node if n.op_type == "QuantizeLinear"]
    assert len(quantizers) == len(plan.sites) - 2


def test_a_depthwise_convolution_multiplies_codes_by_a_weight_with_all_scales(
    plan: Plan, emitted: EmittedGraph
) -> None:
    fused = emit_fused(emitted)
    (node,) = [n for n in fused.proto.graph.node if n.op_type == "Conv"]
    (cast,) = [n for n in fused.proto.graph.node if n.output[0] == node.input[0]]
    (weight,) = [onnx.numpy_helper.to_array(t) for t in fused.proto.graph.initializer if t.name == node.input[1]]
    site = plan.weights()["deep"]
    assert cast.op_type == "Cast" and cast.input[0] == f"{site.site.input}.q{site.a_bits}"
    scales = np.float32(site.grid.emitted_scale) * site.weight_scale.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(weight, site.codes * scales)


@pytest.mark.parametrize("batch", [None, 2])
def test_the_logits_stay_what_they_were(calibrated: Calibrated, plan: Plan, batch: int | None) -> None:
    graph = calibrated.graph if batch is None else fixed_batch(calibrated.graph, batch)
    emitted, images = emit_qdq(graph, plan), Examples.images(calibrated.images.numpy())
    before, after = (
        runtime.run(runtime.session(m.serialize(), 1), images, batch)[0] for m in (emitted, emit_fused(emitted))
    )
    assert np.abs(after - before).max() <= 1e-5 * np.abs(before).max()


def test_a_convolution_that_was_left_out_is_found(
    calibrated: Calibrated, plan: Plan, emitted: EmittedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Left out of the emission: ONNX Runtime runs whatever convolutions it is given as integers.
    monkeypatch.setattr("qvit_deploy.targets.onnxruntime_fused.emission.fuse_convolutions", lambda *_: {})
    with pytest.raises(CheckError, match=r"runs 6 convolutions in float: stem, grouped, dilated"):
        verify_fused(calibrated.graph, emitted, emit_fused(emitted), plan, Examples.images(calibrated.images.numpy()))


def test_one_that_onnx_runtime_would_take_back_to_float_is_found(
    calibrated: Calibrated, plan: Plan, emitted: EmittedGraph
) -> None:
    fused = emit_fused(emitted)
    wrong = replace(fused, convolutions={**fused.convolutions, emitted.sites["box"].product: "deep.weight"})
    with pytest.raises(CheckError, match=r"runs 1 convolutions in float: box"):
        verify_fused(calibrated.graph, emitted, wrong, plan, Examples.images(calibrated.images.numpy()))


def test_a_wrong_weight_code_is_found(calibrated: Calibrated, plan: Plan, emitted: EmittedGraph) -> None:
    fused = emit_fused(emitted)
    wrong = changed(fused, integer_node(fused, "down").input[1], lambda a: a - (a == a.max()))
    with pytest.raises(CheckError, match="output of site 'down'"):
        verify_fused(calibrated.graph, emitted, wrong, plan, Examples.images(calibrated.images.numpy()))


def test_without_a_kernel_they_stay_in_float_and_say_why(
    calibrated: Calibrated, plan: Plan, emitted: EmittedGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A processor that this machine is not.
    monkeypatch.setattr(convolution, "convolves_int8", lambda: False)
    fused = emit_fused(emitted)
    verification = verify_fused(calibrated.graph, emitted, fused, plan, Examples.images(calibrated.images.numpy()))
    assert not fused.convolutions and verification.integer_products == 2
    assert verification.in_float == {
        **dict.fromkeys(OTHERS, convolution.NO_KERNEL),
        **dict.fromkeys(DEPTHWISE, convolution.DEPTHWISE),
    }
