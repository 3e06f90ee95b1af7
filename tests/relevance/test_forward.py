"""Rules change the backward pass only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.query import bias_of
from qvit_deploy.relevance.rule_sets import RULE_SETS
from tests.support.graphs.relevance_graphs import Builder


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


def decoder() -> Graph:
    """What segmenters and detectors put behind a backbone: group norms, pools, enlarging, sampling, the best values."""
    b = Builder(3)
    x = b.op("Conv", "image", b.normal(8, 3, 3, 3, scale=0.3), pads=[1, 1, 1, 1])
    x = b.op("GroupNormalization", x, b.constant(np.ones(8)), b.constant(np.zeros(8)), num_groups=2)
    x = b.op("PRelu", x, b.constant(np.full((8, 1, 1), 0.2)))
    x = b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = b.op("Elu", b.op("ConvTranspose", x, b.normal(8, 8, 2, 2, scale=0.3), strides=[2, 2]))
    x = b.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")
    x = b.op("Resize", x, "", b.constant(np.float32([1, 1, 2, 2])), mode="linear")
    x = b.op("Resize", x, "", b.constant(np.float32([1, 1, 1.5, 1.5])), mode="nearest")
    grid = b.op("Expand", b.constant(np.tanh(b.random.standard_normal((1, 4, 4, 2)))), b.constant([2, 4, 4, 2]))
    x = b.op("GridSample", x, grid, mode="linear")
    tokens = b.op("Transpose", b.op("Reshape", x, b.constant([0, 8, 16])), perm=[0, 2, 1])
    scores = b.op("Softmax", b.op("MatMul", tokens, b.op("Transpose", tokens, perm=[0, 2, 1])), axis=-1)
    mixed = b.op("Gelu", b.op("Add", tokens, b.op("MatMul", scores, tokens)))
    best = f"t{len(b.nodes)}"
    b.nodes.append(helper.make_node("TopK", [mixed, b.constant([3])], [best, f"{best}_places"], best, axis=1))
    return b.graph(b.op("ReduceMean", best, b.constant([1]), keepdims=0, name="logits"), (3, 8, 8))


@pytest.mark.parametrize("name", RULE_SETS)
def test_every_rule_set_goes_through_a_decoder(name: str) -> None:
    graph, images = decoder(), torch.randn(2, 3, 8, 8)
    bound = RULE_SETS[name].bind(graph, 2)
    leaf = images.clone().requires_grad_()
    logits = Executor(graph, overrides=bound.overrides).run(Examples.images(leaf))["logits"]
    assert torch.equal(logits, Executor(graph).run(Examples.images(images))["logits"])
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), leaf)
    assert torch.isfinite(gradient).all() and gradient.flatten(1).any(1).all()
    if name != "gradient":
        assert bound.firings["norm"] == 1 and bound.firings["activation"] == 3
    if name == "deep-taylor":
        assert bound.firings["conv"] == 2
