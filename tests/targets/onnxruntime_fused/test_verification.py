from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from qvit_deploy.emit.runtime_model import RuntimeModel
from qvit_deploy.errors import CheckError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.onnxruntime_fused import verification as fused_verification
from qvit_deploy.targets.onnxruntime_fused.emission import emit_fused
from qvit_deploy.targets.onnxruntime_fused.verification import verify_fused
from tests.support.graphs.quantizable_graphs import Calibrated
from tests.support.models.runtime_models import changed


def product(fused: RuntimeModel, index: int) -> onnx.NodeProto:
    return [n for n in fused.proto.graph.node if n.op_type == "MatMulIntegerToFloat"][index]


def test_a_sound_file_passes(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    verification = verify_fused(
        calibrated.graph, emitted, emit_fused(emitted), plan, Examples.images(calibrated.images.numpy())
    )
    # Of the query, proj, fc1, fc2 and the head only the class token's codes exist.
    assert verification.codes == 4 * (4 * 256 + 2 * 64 + 4 * 16 + 64)
    assert verification.code_mismatches == 0 and verification.worst_site_error < 1e-5
    assert verification.reference_agreement == 1.0 and verification.reference_sqnr_db > 40
    assert verification.attentions == 1 and verification.integer_products == len(plan.sites)


def test_codes_of_another_scale_are_found(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    fused = emit_fused(emitted)
    (quantize,) = [n for n in fused.proto.graph.node if n.output[0] == product(fused, 2).input[0]]
    wrong = changed(fused, quantize.input[1], lambda a: a * 1.01)
    with pytest.raises(CheckError, match=r"codes of .* differ"):
        verify_fused(calibrated.graph, emitted, wrong, plan, Examples.images(calibrated.images.numpy()))


@pytest.mark.parametrize(("operand", "edit"), [(1, lambda a: a + (a == a.max())), (6, lambda a: a + 0.05)])
def test_a_wrong_weight_or_bias_is_found(
    calibrated: Calibrated,
    emitted: Graph,
    plan: Plan,
    operand: int,
    edit: Callable[[np.ndarray], np.ndarray],
) -> None:
    fused = emit_fused(emitted)
    wrong = changed(fused, product(fused, 3).input[operand], edit)
    with pytest.raises(CheckError, match="output of site"):
        verify_fused(calibrated.graph, emitted, wrong, plan, Examples.images(calibrated.images.numpy()))


def test_a_wrong_attention_is_found_at_its_output(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    fused = emit_fused(emitted)
    proto = onnx.ModelProto()
    proto.CopyFrom(fused.proto)
    (attention,) = [n for n in proto.graph.node if n.op_type == "Attention"]
    (scale,) = [a for a in attention.attribute if a.name == "scale"]
    scale.f *= 3
    with pytest.raises(CheckError, match="dB from the onnxruntime file"):
        verify_fused(
            calibrated.graph, emitted, replace(fused, proto=proto), plan, Examples.images(calibrated.images.numpy())
        )


def test_a_linear_that_was_left_out_is_found(calibrated: Calibrated, emitted: Graph, plan: Plan) -> None:
    fused = emit_fused(emitted)
    with pytest.raises(CheckError, match="linears were fused"):
        verify_fused(
            calibrated.graph,
            emitted,
            replace(fused, linears=fused.linears[1:]),
            plan,
            Examples.images(calibrated.images.numpy()),
        )


def test_logits_off_the_reference_that_are_as_near_to_the_float_model_pass(
    calibrated: Calibrated, emitted: Graph, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that decides by small differences ends elsewhere by one last bit."""
    # A limit that no file meets: networks that decide by so little are larger than a test's.
    monkeypatch.setattr(fused_verification, "MIN_SQNR_DB", 1e9)
    images = Examples.images(calibrated.images.numpy())
    assert verify_fused(calibrated.graph, emitted, emit_fused(emitted), plan, images).code_mismatches == 0
