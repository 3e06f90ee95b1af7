"""Rules change the backward pass only."""

from __future__ import annotations

import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.query import bias_of
from qvit_deploy.relevance.rule_sets import RULE_SETS


@pytest.mark.parametrize("name", RULE_SETS)
def test_the_logits_stay_bit_identical(name: str, small_vit: Graph, images: torch.Tensor) -> None:
    bound = RULE_SETS[name].bind(small_vit, len(images))
    with_rules = Executor(small_vit, overrides=bound.overrides).run(Examples.images(images))["logits"]
    assert torch.equal(with_rules, Executor(small_vit).run(Examples.images(images))["logits"])


@pytest.mark.parametrize("name", RULE_SETS)
def test_every_tensor_stays_bit_identical(name: str, small_vit: Graph, images: torch.Tensor) -> None:
    # The product of a linear layer may take its bias in.
    nodes = [n for n in small_vit.nodes() if n.op_type != "MatMul" or bias_of(n) is None]
    names = [out.name for node in nodes for out in node.outputs if out.name]
    bound = RULE_SETS[name].bind(small_vit, len(images))
    ruled = Executor(small_vit, overrides=bound.overrides).run(Examples.images(images), fetch=names)
    plain = Executor(small_vit).run(Examples.images(images), fetch=names)
    different = [n for n in names if not torch.equal(ruled[n], plain[n])]
    assert different == []
