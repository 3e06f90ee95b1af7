"""The change of the logits by quantization, taken apart by site."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.patching.drift import Drift, quantization_drift
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.tasks.classify import CLASSIFY
from tests.support.graphs.relevance_graphs import Builder

METRIC = CLASSIFY.parse_metric("logit-diff:0,1")


def _network(quantized: bool, activation: str | None, shift: float = 0.0) -> Graph:
    """Two layers in a residual block and a head, tensors named alike in both forms."""
    b = Builder(seed=2)

    def linear(x: str, rows: int, columns: int, name: str) -> str:
        weight = b.random.standard_normal((rows, columns)).astype(np.float32)
        bias = b.normal(columns, name=f"{name}.bias")
        if quantized:
            scale, zero = b.constant(0.05), b.codes(np.zeros((), np.int8))
            x = b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zero), scale, zero)
            codes = b.codes(np.clip(np.rint(weight / 0.2), -8, 7).astype(np.int8))
            value = b.op("DequantizeLinear", codes, b.constant(np.full(columns, 0.2)), axis=1)
        else:
            value = b.constant(weight, f"{name}.weight")
        return b.op("Add", b.op("MatMul", x, value, name=f"{name}.product"), bias, name=name)

    x = b.op("Mul", b.op("Reshape", "image", b.constant([0, 3, 16])), b.constant(0.3 + shift), name="x")
    hidden = linear(x, 16, 24, "fc1")
    hidden = b.op(activation, hidden, name="activated") if activation else hidden
    out = b.op("Add", x, linear(hidden, 24, 16, "fc2"), name="out")
    return b.graph(
        linear(b.op("ReduceMean", out, b.constant([1]), keepdims=0, name="pooled"), 16, 4, "head"), (3, 4, 4)
    )


def _drift(activation: str | None, rules: str = "gradient", shift: float = 0.0) -> Drift:
    clean, quantized = _network(False, activation), _network(True, activation, shift)
    images = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    rule_set = RULE_SETS[rules]
    executor = Executor(clean, overrides=rule_set.bind(clean, 3).overrides)
    return quantization_drift(
        executor, Executor(quantized), rule_set, find_sites(clean), Examples.images(images), METRIC, CLASSIFY
    )


@pytest.mark.parametrize("rules", ["gradient", "relp", "relp-ah", "attnlrp"])
def test_effects_of_a_linear_network_add_up_exactly(rules: str) -> None:
    drift = _drift(None, rules)
    assert list(drift.effects) == ["fc1", "fc2", "head"]
    assert drift.effects["fc1"].shape == (3, 3) and drift.effects["head"].shape == (3, 1)
    assert np.abs(drift.after - drift.before).min() > 1e-3
    np.testing.assert_allclose(drift.estimated, drift.after - drift.before, rtol=1e-4, atol=1e-5)


def test_the_trapezoid_catches_the_curvature() -> None:
    drift = _drift("Gelu")
    true = drift.after - drift.before
    assert np.linalg.norm(drift.estimated - true) < 0.05 * np.linalg.norm(true)
    assert 0 < drift.errors["fc1"] < 0.5 and drift.unexplained < 1e-5


def test_a_site_without_error_has_no_effect() -> None:
    clean = _network(False, "Gelu")
    executor, images = Executor(clean), torch.randn(2, 3, 4, 4)
    drift = quantization_drift(
        executor, Executor(clean), RULE_SETS["gradient"], find_sites(clean), Examples.images(images), METRIC, CLASSIFY
    )
    assert not drift.estimated.any() and set(drift.errors.values()) == {0.0}


def test_graphs_that_differ_elsewhere() -> None:
    with pytest.raises(CheckError, match="differ outside their quantized layers"):
        _drift("Gelu", shift=0.2)
