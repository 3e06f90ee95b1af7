"""Ties: what a runtime that multiplies by the reciprocal of a scale may do, and what it may not."""

from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph, constant
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.forced_comparison import Comparison, compare_forced, compared_tensors
from qvit_deploy.targets.onnxruntime.tensors import probe
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit

SOURCE, CODES = "norm2_out", "norm2_out.q8"
PLACE = (0, 3, 5)


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (8,), images=4)


@pytest.fixture(scope="module")
def plan(calibrated: Calibrated) -> Plan:
    return calibrated.plan({s.name: (8, 8) for s in calibrated.sites if s.kind == "linear"})


@pytest.fixture(scope="module")
def emitted(calibrated: Calibrated, plan: Plan) -> Graph:
    return emit_qdq(calibrated.graph, plan)


def compare(calibrated: Calibrated, plan: Plan, emitted: Graph, steps: float, code: int, tie: float) -> Comparison:
    """The runtime has `steps` steps of the grid at one place of a quantizer's input, and says `code`."""
    images = calibrated.images.numpy()
    names = compared_tensors(emitted, plan)
    measured = dict(zip(names, (a.copy() for a in probe(emitted, Examples.images(images), names)), strict=True))
    quantize = next(n for n in emitted.nodes() if n.outputs[0].name == CODES)
    scale = constant(quantize.inputs[1])
    assert scale is not None
    measured[SOURCE][PLACE] = np.float32(steps * float(scale))
    measured[CODES][PLACE] = code
    return compare_forced(Executor(emitted), emitted, plan, Examples.images(images), measured, tie=tie)


def test_the_executor_s_code_is_right(calibrated: Calibrated, plan: Plan, emitted: Graph) -> None:
    assert compare(calibrated, plan, emitted, 3.2, 3, 0.0).ties == 0
    assert compare(calibrated, plan, emitted, 3.2, 3, 1e-3).ties == 0


def test_in_the_middle_of_two_codes_either_is(calibrated: Calibrated, plan: Plan, emitted: Graph) -> None:
    for steps, rounded, other in ((3.4999, 3, 4), (3.5001, 4, 3), (-2.4999, -2, -3)):
        assert compare(calibrated, plan, emitted, steps, rounded, 1e-3).ties == 0
        assert compare(calibrated, plan, emitted, steps, other, 1e-3).ties == 1
        with pytest.raises(CheckError, match=rf"1 of \d+ codes of '{CODES}' differ"):
            compare(calibrated, plan, emitted, steps, other, 0.0)


def test_elsewhere_or_further_away_it_is_wrong(calibrated: Calibrated, plan: Plan, emitted: Graph) -> None:
    for steps, code in ((3.2, 4), (3.4999, 5), (3.48, 4)):
        with pytest.raises(CheckError, match="codes of"):
            compare(calibrated, plan, emitted, steps, code, 1e-3)


def test_an_output_that_its_bias_cancels_is_held_to_what_float32_leaves_of_the_bias(
    calibrated: Calibrated, plan: Plan, emitted: Graph
) -> None:
    images = calibrated.images.numpy()
    names = compared_tensors(emitted, plan)
    measured = dict(zip(names, (a.copy() for a in probe(emitted, Examples.images(images), names)), strict=True))
    output = plan.sites["fc2"].site.output
    largest = float(np.abs(measured[output]).max())
    measured[output][0, 0] += 1e-3 * largest
    for bias, error in ((0.0, 1e-3), (50 * largest, 1e-3), (1000 * largest, 1e-4)):
        comparison = compare_forced(
            Executor(emitted), emitted, plan, Examples.images(images), measured, biases={output: bias}
        )
        assert comparison.worst_site == "fc2" and comparison.worst_error == pytest.approx(error, rel=0.05)
