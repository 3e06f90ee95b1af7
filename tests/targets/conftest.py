from __future__ import annotations

import pytest

from qvit_deploy.emit.emitted import EmittedGraph
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.quantize.plan import Plan
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (6,), images=8)


@pytest.fixture(scope="module")
def plan(calibrated: Calibrated) -> Plan:
    """All linear layers at 6 bits."""
    return calibrated.plan({s.name: (6, 6) for s in calibrated.sites if s.kind == "linear"})


@pytest.fixture(scope="module")
def emitted(calibrated: Calibrated, plan: Plan) -> EmittedGraph:
    """The Q/DQ graph of the plan."""
    return emit_qdq(calibrated.graph, plan)
