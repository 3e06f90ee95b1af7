from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.forced_comparison import OUTPUT_TOLERANCE
from qvit_deploy.targets.onnxruntime import verification
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.onnxruntime.verification import verify
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.metrics import sqnr_db
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, fixed_batch, logits, mixed_vit, node_making


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (4, 8), attention=True, images=10)


@pytest.fixture(scope="module")
def plan(calibrated: Calibrated) -> Plan:
    return calibrated.plan({s.name: (4, 4) for s in calibrated.sites if s.kind == "linear"})


def change(graph: Graph, name: str, edit: Callable[[np.ndarray], np.ndarray]) -> Graph:
    """`graph` with one constant edited."""
    changed = graph.clone()
    value = changed.model.graph.initializers[name]
    before = constant(value)
    assert before is not None
    value.const_value = ir.tensor(edit(before.copy()).astype(before.dtype), name=name)
    return changed


def test_a_sound_graph_passes_and_the_numbers_are_the_measured_ones(calibrated: Calibrated, plan: Plan) -> None:
    emitted = emit_qdq(calibrated.graph, plan)
    images = calibrated.images.numpy()
    verification = verify(calibrated.graph, emitted, plan, Examples.images(images))
    expected = logits(calibrated.graph, calibrated.images)
    measured = run(session(emitted.serialize(), 1), Examples.images(images))[0]
    assert verification.code_mismatches == 0 and verification.images == 10 and verification.probe_images == 4
    assert verification.codes == 4 * (4 * 256 + 3 * 64 + 64 + 64 + 256 + 16)
    assert verification.worst_site in plan.sites and verification.worst_site_error < 1e-5
    assert verification.float_sqnr_db == pytest.approx(sqnr_db(expected, measured), abs=0.01)
    assert verification.float_agreement == CLASSIFY.agreement({"logits": expected}, {"logits": measured})
    assert verification.integer_products == verification.expected_integer_products == 8
    assert verification.model_dump()["optimized_ops"] == verification.optimized_ops


def test_attention_passes_too_and_convolutions_are_named(calibrated: Calibrated) -> None:
    everything = calibrated.plan((8, 8))
    verification = verify(
        calibrated.graph, emit_qdq(calibrated.graph, everything), everything, Examples.images(calibrated.images.numpy())
    )
    assert verification.integer_products == verification.expected_integer_products == 10
    assert verification.float_products == ("stem",)


@pytest.mark.parametrize("rows", [False, True])
def test_products_planned_in_float_are_named_and_not_expected_on_integers(rows: bool) -> None:
    logarithmic = calibrate(mixed_vit(), (4,), True, 6, "log2", rows, "head")
    everything = logarithmic.plan((4, 4))
    emitted = emit_qdq(logarithmic.graph, everything)
    verification = verify(logarithmic.graph, emitted, everything, Examples.images(logarithmic.images.numpy()))
    assert verification.float_products == ("stem", "attn.av") and verification.code_mismatches == 0
    assert verification.integer_products == verification.expected_integer_products == 9
    tensor = everything.sites["attn.av"].site.input
    wider = change(emitted, f"{tensor}.q4.range", lambda a: a * np.float32(1.001))
    with pytest.raises(CheckError, match=r"site 'attn\.av' was not emitted as planned"):
        verify(logarithmic.graph, wider, everything, Examples.images(logarithmic.images.numpy()))


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_levels_and_shifted_probabilities_pass_on_integers(bits: int, rows: bool) -> None:
    levelled = calibrate(mixed_vit(), (bits,), True, 6, "levels", rows, "head")
    everything = levelled.plan((bits, bits))
    checked = verify(
        levelled.graph, emit_qdq(levelled.graph, everything), everything, Examples.images(levelled.images.numpy())
    )
    assert checked.integer_products == checked.expected_integer_products == 10
    assert checked.float_products == ("stem",)
    assert checked.code_mismatches == 0 and checked.worst_site_error < 1e-5


@pytest.mark.parametrize(
    ("constant_name", "edit", "site"),
    [
        ("fc1.weight.q4", lambda a: a + (np.indices(a.shape).sum(0) == 0), "fc1"),
        ("attn.v.weight.scale", lambda a: a * np.float32(1.001), "attn.v"),
        ("hidden_out.q4.scale", lambda a: a * np.float32(1.001), "fc2"),
    ],
)  # fmt: skip
def test_a_graph_that_is_not_the_plan_s_is_refused(
    calibrated: Calibrated, plan: Plan, constant_name: str, edit: Callable[[np.ndarray], np.ndarray], site: str
) -> None:
    """One weight code off by one, one scale by a thousandth."""
    emitted = change(emit_qdq(calibrated.graph, plan), constant_name, edit)
    with pytest.raises(CheckError, match=rf"site '{site}' was not emitted as planned"):
        verify(calibrated.graph, emitted, plan, Examples.images(calibrated.images.numpy()))


def test_a_runtime_that_computes_other_codes_is_caught(calibrated: Calibrated, plan: Plan) -> None:
    """The runtime gets a clip at 3 steps instead of 7, as if it had rounded on another grid."""
    emitted = emit_qdq(calibrated.graph, plan)
    wider = change(emitted, "norm1_out.q4.high", lambda high: high * np.float32(3 / 7))
    with pytest.raises(CheckError, match=r"codes of 'norm1_out\.q4' differ between the runtime and the executor"):
        verification._forced(Executor(emitted), wider, plan, Examples.images(calibrated.images[:4].numpy()))


def test_a_runtime_that_multiplies_wrongly_is_caught(calibrated: Calibrated, plan: Plan) -> None:
    emitted = emit_qdq(calibrated.graph, plan)
    heavier = change(emitted, "fc1.weight.q4", lambda codes: np.roll(codes, 1))
    comparison = verification._forced(Executor(emitted), heavier, plan, Examples.images(calibrated.images[:4].numpy()))
    assert comparison.ties == 0 and comparison.worst_site == "fc1" and comparison.worst_error > 100 * OUTPUT_TOLERANCE


def test_a_linear_left_in_float_is_refused(calibrated: Calibrated, plan: Plan) -> None:
    """Its dequantized input also leaves the graph, so ONNX Runtime keeps the pair."""
    emitted = emit_qdq(calibrated.graph, plan)
    product = next(use.node for use in node_making(emitted, "fc1.weight.value").outputs[0].uses())
    dequantized = product.inputs[0]
    assert dequantized is not None
    emitted.model.graph.outputs.append(dequantized)
    with pytest.raises(CheckError, match=r"fused 7 of 8 quantized linears; still in float: fc1\.product"):
        verify(calibrated.graph, emitted, plan, Examples.images(calibrated.images.numpy()))


def test_every_site_of_the_plan_must_be_there(calibrated: Calibrated, plan: Plan) -> None:
    less = Plan({name: site for name, site in plan.sites.items() if name != "fc2"})
    with pytest.raises(CheckError, match=r"site 'fc2' was not emitted"):
        verify(calibrated.graph, emit_qdq(calibrated.graph, less), plan, Examples.images(calibrated.images.numpy()))


@pytest.mark.parametrize("batch", [4, 16])
def test_a_fixed_batch_is_verified_with_images_that_do_not_fill_it(
    calibrated: Calibrated, plan: Plan, batch: int
) -> None:
    graph = fixed_batch(mixed_vit(), batch)
    verification = verify(graph, emit_qdq(graph, plan), plan, Examples.images(calibrated.images[:6].numpy()))
    assert (verification.images, verification.probe_images, verification.integer_products) == (6, batch, 8)
