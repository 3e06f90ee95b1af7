"""New number formats, written here alone, go through ranges, rounding, plan, emission, verification and cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch

from qvit_deploy.allocate.cost import Budget, Option, SiteCost, total_cost
from qvit_deploy.allocate.solve import solve
from qvit_deploy.cache.store import load, store
from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.formats.format import Block, Format
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.quantize.calibration import RoundedCalibration
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.quantize.ranges.activations import activation_grids
from qvit_deploy.quantize.ranges.attention import attention_grids
from qvit_deploy.quantize.rounding.plan_weights import build_plan
from qvit_deploy.quantize.rounding.prequantized import prequantize_weights
from qvit_deploy.quantize.scoring.losses import site_errors
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.onnxruntime.verification import verify
from qvit_deploy.tasks.metrics import sqnr_db
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, logits, mixed_vit


@dataclass(frozen=True)
class FiveLevels(Format):
    """-2, -1, 0, 1 and 2: an integer format that is no power of two."""

    bits = 3
    integer = True
    short = "five"
    range = (-2, 2)
    container = np.dtype(np.int8)

    def quantize(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (x / scale).round().clamp_(-2, 2)


@dataclass(frozen=True)
class E4M3(Format):
    """Floats of 8 bits (OCP 8-bit floating point, 2023), which QuantizeLinear makes and saturates."""

    bits = 8
    short = "e4m3"
    range = (-448.0, 448.0)
    container = np.dtype(ml_dtypes.float8_e4m3fn)
    fills_container = True

    def quantize(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float()


@dataclass(frozen=True)
class FourBitBlocks(E4M3):
    """For the cost alone: 4 bits, and 8 bits of scale for each 32 of them."""

    bits = 4
    short = "mx4"
    block = Block(32, 8)


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (8,), attention=True)


def recalibrated(calibrated: Calibrated, format: Format) -> RoundedCalibration:
    """What calibration leaves behind when `format` may be chosen."""
    known = calibrated.calibration()
    sites, formats = calibrated.sites, (format, Int(8))
    grids = {
        **activation_grids(sites, known.observations, known.weights, formats),
        **attention_grids(sites, known.products, formats, "uniform", False, "head"),
    }
    rounded = prequantize_weights(known.executor, sites, known.weights, {}, formats, None, lambda _: None)
    return RoundedCalibration(
        known.executor, sites, known.observations, known.weights, grids, formats, known.products, {}, rounded
    )


def planned(calibrated: Calibrated, format: Format) -> Plan:
    formats = {s.name: (format, format) for s in calibrated.sites}
    batches = calibrated.images.split(4)
    return build_plan(
        recalibrated(calibrated, format), formats, "gptq", [Examples.images(b) for b in batches], 0, lambda _: None
    )


def in_onnxruntime(calibrated: Calibrated, emitted: EmittedGraph) -> np.ndarray:
    return run(session(emitted.serialize(), 1), Examples.images(calibrated.images.numpy()))[0]


@pytest.mark.parametrize("format", [FiveLevels(), E4M3()])
def test_its_points_stay_and_the_largest_value_is_its_highest_code(format: Format) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    scale = format.choose_scale(x.abs().max())
    once = ActivationGrid(format, float(scale)).apply(x)
    assert torch.equal(format.fake_quantize(once, scale), once)
    assert float(format.quantize(x, scale).abs().max()) == format.range[1]


@pytest.mark.parametrize("format", [FiveLevels(), E4M3()])
def test_losses_are_known_of_it(calibrated: Calibrated, format: Format) -> None:
    for error in site_errors(recalibrated(calibrated, format)).values():
        assert error.at(format, format) > error.at(Int(8), Int(8)) > 0


def test_a_file_on_its_integers_is_verified(calibrated: Calibrated) -> None:
    plan = planned(calibrated, FiveLevels())
    emitted = emit_qdq(calibrated.graph, plan)
    onnx.checker.check_model(emitted.to_proto(), full_check=True)
    verification = verify(calibrated.graph, emitted, plan, Examples.images(calibrated.images.numpy()))
    assert verification.codes > 0 and verification.code_mismatches == 0
    assert all(set(np.unique(site.codes)) <= {-2, -1, 0, 1, 2} for site in plan.weights().values())
    assert emitted.sites["fc1"].operands[1].codes == "fc1.weight.qfive"


def test_a_file_of_its_floats_runs(calibrated: Calibrated) -> None:
    plan = planned(calibrated, E4M3())
    emitted = emit_qdq(calibrated.graph, plan)
    onnx.checker.check_model(emitted.to_proto(), full_check=True)
    types = {n.outputs[0].dtype for n in emitted.nodes() if n.op_type == "QuantizeLinear"}
    assert types == {E4M3().onnx_type} and not any(n.op_type == "Clip" for n in emitted.nodes())
    assert sqnr_db(logits(calibrated.graph, calibrated.images), in_onnxruntime(calibrated, emitted)) > 20


def test_its_plan_can_be_cached(calibrated: Calibrated, tmp_path: Path) -> None:
    plan = planned(calibrated, FiveLevels())
    store(plan, tmp_path / "plan")
    read_back = load(tmp_path / "plan")
    assert read_back.sites["attn.qk"] == plan.sites["attn.qk"]
    assert np.array_equal(read_back.sites["fc1"].codes, plan.weights()["fc1"].codes)


def test_it_competes_for_the_budget_at_what_it_costs() -> None:
    option = Option(FourBitBlocks(), Int(8))
    sites = [SiteCost("a", 100, 10, 10)]
    assert total_cost(sites, {"a": option}).weight_bytes == (100 * 4 + 4 * 8) // 8
    assert option.text == "wmx4a8" and FourBitBlocks() < Int(5) and not FourBitBlocks() < Int(4)
    options = {"a": [option, Option(Int(8), Int(8))]}
    loss = {"a": {option: 1.0, Option(Int(8), Int(8)): 0.5}}
    for limit, wanted in ((54, option), (100, Option(Int(8), Int(8)))):
        assert solve(sites, options, loss, Budget(max_weight_bytes=limit)) == {"a": wanted}
