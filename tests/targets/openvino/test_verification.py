from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.errors import CheckError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.recipe import SoftmaxCodes
from qvit_deploy.targets.openvino import verification as openvino_verification
from qvit_deploy.targets.openvino.emission import emit_openvino
from qvit_deploy.targets.openvino.verification import verify_openvino
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, fixed_batch, mixed_vit
from tests.support.models.runtime_models import changed


def bias_of(written: RuntimeModel, site: str) -> str:
    """The constant that is added behind the product of `site`."""
    (product,) = [n for n in written.proto.graph.node if n.name in written.linears and site in n.name]
    (add,) = [n for n in written.proto.graph.node if product.output[0] in n.input]
    known = {t.name for t in written.proto.graph.initializer}
    return next(name for name in add.input if name in known)


def test_a_sound_file_passes(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    verification = verify_openvino(
        calibrated.graph, emitted, emit_openvino(emitted), plan, Examples.images(calibrated.images.numpy())
    )
    # Of proj, fc1, fc2 and the head only the class token's codes exist.
    assert verification.codes == 4 * (4 * 256 + 3 * 64 + 3 * 16 + 64)
    assert verification.code_mismatches == 0 and verification.ties <= 2 and verification.worst_site_error < 1e-5
    assert verification.float_sqnr_db > 10 and verification.reference_sqnr_db > verification.float_sqnr_db
    assert verification.integer_products == len(plan.sites)


@pytest.mark.parametrize("softmax", ["levels", "log2"])
def test_probabilities_on_levels_and_on_logarithms_pass_too(softmax: SoftmaxCodes) -> None:
    """Also where probabilities are above the largest level: their codes end with the table that is looked up."""
    calibrated = calibrate(mixed_vit(), (4,), attention=True, images=8, softmax=softmax)
    plan = calibrated.plan({s.name: (4, 4) for s in calibrated.sites if s.kind != "conv"})
    emitted = emit_qdq(calibrated.graph, plan)
    verification = verify_openvino(
        calibrated.graph, emitted, emit_openvino(emitted), plan, Examples.images(calibrated.images.numpy())
    )
    assert verification.code_mismatches == 0


def test_quantized_attention_products_pass_too() -> None:
    calibrated = calibrate(mixed_vit(), (8,), attention=True, images=8)
    plan = calibrated.plan({s.name: (8, 8) for s in calibrated.sites if s.kind != "conv"})
    emitted = emit_qdq(calibrated.graph, plan)
    verification = verify_openvino(
        calibrated.graph, emitted, emit_openvino(emitted), plan, Examples.images(calibrated.images.numpy())
    )
    assert verification.code_mismatches == 0


@pytest.mark.parametrize("batch", [3, 16])
def test_a_fixed_batch_is_verified_with_images_that_do_not_fill_it(
    calibrated: Calibrated, plan: Plan, batch: int
) -> None:
    graph = fixed_batch(mixed_vit(), batch)
    emitted = emit_qdq(graph, plan)
    verification = verify_openvino(
        graph, emitted, emit_openvino(emitted), plan, Examples.images(calibrated.images.numpy())
    )
    assert verification.probe_images == batch and verification.images == 8
    assert verification.integer_products == len(plan.sites)


def test_codes_of_another_scale_are_found(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    written = emit_openvino(emitted)
    (quantize,) = [n for n in written.proto.graph.node if n.output[0] == written.codes["norm2_out.q6"]]
    wrong = changed(written, quantize.input[1], lambda a: a * 1.01)
    with pytest.raises(CheckError, match=r"codes of .* differ"):
        verify_openvino(calibrated.graph, emitted, wrong, plan, Examples.images(calibrated.images.numpy()))


@pytest.mark.parametrize("edit", [lambda a: a + 0.05, lambda a: np.zeros_like(a)])
def test_a_shift_that_is_not_taken_back_is_found(
    calibrated: Calibrated, emitted: Graph, plan: Plan, edit: Callable[[np.ndarray], np.ndarray]
) -> None:
    written = emit_openvino(emitted)
    wrong = changed(written, bias_of(written, "fc1"), edit)
    with pytest.raises(CheckError, match="output of site 'fc1'"):
        verify_openvino(calibrated.graph, emitted, wrong, plan, Examples.images(calibrated.images.numpy()))


def test_a_linear_left_in_float_is_refused(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    """Its weight is written out in floating point: the same numbers, but no product of integers."""
    written = emit_openvino(emitted)
    proto = onnx.ModelProto()
    proto.CopyFrom(written.proto)
    (product,) = [n for n in proto.graph.node if n.name in written.linears and "fc2" in n.name]
    (dequantize,) = [n for n in proto.graph.node if n.output[0] == product.input[1]]
    known = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    matrix = known[dequantize.input[0]].astype(np.float32) * known[dequantize.input[1]]
    proto.graph.initializer.append(numpy_helper.from_array(matrix, dequantize.output[0]))
    proto.graph.node.remove(dequantize)
    with pytest.raises(CheckError, match=r"1 of \d linears in floating point on this CPU: .*fc2"):
        verify_openvino(
            calibrated.graph, emitted, replace(written, proto=proto), plan, Examples.images(calibrated.images.numpy())
        )


def test_a_linear_that_was_left_out_is_found(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    written = emit_openvino(emitted)
    with pytest.raises(CheckError, match="linears were rewritten"):
        verify_openvino(
            calibrated.graph,
            emitted,
            replace(written, linears=written.linears[1:]),
            plan,
            Examples.images(calibrated.images.numpy()),
        )


def test_a_norm_in_float_that_is_off_loses_accuracy(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    """Codes are compared given the file's own inputs, so that only the outputs tell."""
    written = emit_openvino(emitted)
    norms = [n for n in written.proto.graph.node if n.op_type == "LayerNormalization"]
    wrong = changed(written, norms[0].input[1], lambda a: -a)
    with pytest.raises(CheckError, match="takes the SQNR against the float model from"):
        verify_openvino(calibrated.graph, emitted, wrong, plan, Examples.images(calibrated.images.numpy()))


def test_many_ties_fail(calibrated: Calibrated, emitted: Graph, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    images = calibrated.images.numpy()
    # Which codes are ties depends on this CPU's arithmetic: no file has many of them everywhere.
    monkeypatch.setattr(openvino_verification, "MAX_TIE_SHARE", -1.0)
    with pytest.raises(CheckError, match="codes are rounded differently"):
        verify_openvino(calibrated.graph, emitted, emit_openvino(emitted), plan, Examples.images(images))
