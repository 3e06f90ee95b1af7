"""A rule set is added by a value in `RULE_SETS`, and by nothing else: `relp --rules` and the LRP score take it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.execute.ops import build
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.relevance import backward
from qvit_deploy.relevance.lrp import site_relevance
from qvit_deploy.relevance.rule_sets import RULE_SETS, RuleSet
from qvit_deploy.relevance.rules import Rule
from qvit_deploy.tasks.classify import largest_logit
from tests.support.command_line import Command, Inputs

STILL_QUERIES = Rule(
    "query",
    matches=lambda node, flow: node.op_type == "Softmax" and flow.is_used(node),
    replace=lambda node, _: {node: backward.stopped(build(node))},
    freezes=True,
    evidence=frozenset({"Softmax"}),
)
"""Attention patterns are constants: nothing flows back to queries and keys."""

TOY = RuleSet("still-queries", (STILL_QUERIES,), expected=("query",))


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULE_SETS, TOY.name, TOY)


def test_its_rule_fires_and_leaves_the_forward_pass_alone(small_vit: Graph, images: torch.Tensor) -> None:
    bound = TOY.bind(small_vit, len(images))
    assert bound.firings == {"query": sum(node.op_type == "Softmax" for node in small_vit.nodes())}
    plain, ruled = Executor(small_vit), Executor(small_vit, overrides=bound.overrides)
    with torch.no_grad():
        assert torch.equal(plain.run(Examples.images(images))["logits"], ruled.run(Examples.images(images))["logits"])


def test_it_scores_sites(small_vit: Graph, images: torch.Tensor) -> None:
    sites = find_sites(small_vit)
    scores = site_relevance(small_vit, sites, [Examples.images(images)], TOY, largest_logit, lambda _: None)
    assert scores.firings["query"] > 0
    assert sum(scores.values.values()) == pytest.approx(1)
    assert all(np.isfinite(value) for value in scores.values.values())


def test_relp_takes_it_by_name(qvit: Command, inputs: Inputs) -> None:
    result = qvit(
        "relp", inputs.model, "--preprocess", inputs.preprocess, "--data", inputs.calib, "--count", 1,
        "--edit", "blur", "--rules", TOY.name, "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert json.loads(result.out)["firings"]["query"] > 0
