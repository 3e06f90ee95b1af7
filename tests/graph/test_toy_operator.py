"""An operator is added by a builder and a row of traits, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.emit.rows import keep_read_rows
from qvit_deploy.errors import UnsupportedOpError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.execute.ops import OPS
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.op_traits import TRAITS, Traits
from qvit_deploy.patching.components import Component
from qvit_deploy.patching.exact import patch_effects
from qvit_deploy.patching.relp import attribute
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.onnxruntime.verification import verify
from qvit_deploy.tasks.classify import CLASSIFY
from tests.support.graphs.quantizable_graphs import calibrate, canonical, images_for, logits
from tests.support.graphs.relevance_graphs import Builder

TOY = "Asinh"
"""The inverse of the hyperbolic sine: a standard operator that ONNX Runtime runs."""


@pytest.fixture(autouse=True)
def _unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler as it would be without the operator; there is none left that ONNX Runtime alone runs."""
    monkeypatch.delitem(OPS, TOY)
    monkeypatch.delitem(TRAITS, TOY)


@pytest.fixture
def _toy(_unknown: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, TOY, lambda _: torch.asinh)
    monkeypatch.setitem(TRAITS, TOY, Traits(elementwise=True, slope_at_zero=1.0, keeps_rows="first", float_only=True))


def model_with_toy() -> Graph:
    """3 x 8 x 8 images: 4 patches, one MLP behind a skip connection with the toy between its linears, the first token's
    row and the head."""
    b = Builder(5)
    patch = b.normal(16, 3, 4, 4, scale=0.2, name="patch.weight")
    x = b.op("Conv", "image", patch, b.normal(16, scale=0.2), strides=[4, 4], kernel_shape=[4, 4])
    x = b.op("Transpose", b.op("Reshape", x, b.constant([0, 16, 4])), perm=[0, 2, 1], name="embedded")
    hidden = b.op(TOY, b.linear(b.layer_norm(x, 16, "norm1"), 16, 64, "fc1"), name="hidden")
    x = b.op("Add", x, b.linear(hidden, 64, 16, "fc2"), name="out")
    row = b.op("Gather", b.layer_norm(x, 16, "norm"), b.constant(np.int64(0)), axis=1, name="row")
    return canonical(b, b.linear(row, 16, 5, "head", "logits"), (3, 8, 8), "toy")


def toy_output(graph: Graph) -> str:
    (node,) = [node for node in graph.nodes() if node.op_type == TOY]
    return node.outputs[0].name or ""


def test_without_its_builder_the_operator_is_named() -> None:
    with pytest.raises(UnsupportedOpError, match=TOY):
        Executor(model_with_toy())


@pytest.mark.usefixtures("_toy")
def test_a_model_with_the_operator_runs_is_quantized_and_is_verified() -> None:
    graph = model_with_toy()
    images = images_for(graph)
    float_logits = run(session(graph.serialize(), 1), Examples.images(images.numpy()))[0]
    np.testing.assert_allclose(logits(graph, images), float_logits, rtol=1e-4, atol=1e-5)

    plan = calibrate(graph, (8,)).plan((8, 8))
    assert {"fc1", "fc2", "head"} <= set(plan.sites)
    verified = verify(graph, emit_qdq(graph, plan), plan, Examples.images(images.numpy()))
    assert verified.float_agreement == 1.0 and verified.integer_products == 4


@pytest.mark.usefixtures("_toy")
def test_relp_goes_through_the_operator_by_its_secant() -> None:
    graph, rules = model_with_toy(), RULE_SETS["relp"]
    bound = rules.bind(graph, 1)
    assert bound.firings["activation"] == 1
    clean, corrupt = images_for(graph, 2).split(1)
    component = Component("residual", 0, "hidden", toy_output(graph))
    metric = CLASSIFY.parse_metric("logit-diff:0,1")
    estimate = attribute(
        Executor(graph, overrides=bound.overrides),
        rules,
        [component],
        Examples.images(clean),
        Examples.images(corrupt),
        metric,
        CLASSIFY,
    )
    exact = patch_effects(Executor(graph), [component], Examples.images(clean), Examples.images(corrupt), metric)
    assert np.corrcoef(estimate.effects[component][0].ravel(), exact[component].ravel())[0, 1] > 0.9


@pytest.mark.usefixtures("_toy")
def test_rows_of_it_that_nothing_reads_are_not_emitted() -> None:
    graph = model_with_toy()
    assert keep_read_rows(graph.model.graph)[toy_output(graph)] == (0,)
