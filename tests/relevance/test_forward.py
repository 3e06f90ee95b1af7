"""Rules change the backward pass only."""

from __future__ import annotations

import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.relevance.rule_sets import RULE_SETS


@pytest.mark.parametrize("name", RULE_SETS)
def test_the_logits_stay_bit_identical(name: str, small_vit: Graph, images: torch.Tensor) -> None:
    bound = RULE_SETS[name].bind(small_vit, len(images))
    with_rules = Executor(small_vit, overrides=bound.overrides).run(images)["logits"]
    assert torch.equal(with_rules, Executor(small_vit).run(images)["logits"])


@pytest.mark.parametrize("name", RULE_SETS)
def test_every_tensor_stays_bit_identical_when_observed(name: str, small_vit: Graph, images: torch.Tensor) -> None:
    names = [out.name for node in small_vit.nodes() for out in node.outputs if out.name]
    bound = RULE_SETS[name].bind(small_vit, len(images), observed=names)
    ruled = Executor(small_vit, overrides=bound.overrides).run(images, fetch=names)
    plain = Executor(small_vit).run(images, fetch=names)
    different = [n for n in names if not torch.equal(ruled[n], plain[n])]
    assert different == []


def test_an_observed_product_gets_the_relevance_of_the_biased_output(small_vit: Graph, images: torch.Tensor) -> None:
    """Asking for the product in front of a bias must not change the relevance further down."""
    from tests.support.relevance_at import relevance_at

    rules = RULE_SETS["deep-taylor"]
    product, below = "blocks.0.fc2.product", "blocks.0.norm1"
    merged = Executor(small_vit, overrides=rules.bind(small_vit, 3).overrides)
    split = Executor(small_vit, overrides=rules.bind(small_vit, 3, observed=[product]).overrides)
    expected = relevance_at(merged, images, [below])[below][1]
    torch.testing.assert_close(relevance_at(split, images, [below, product])[below][1], expected, rtol=1e-3, atol=1e-5)
