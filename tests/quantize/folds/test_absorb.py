from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.folds.absorb import absorb_scales
from tests.support.graphs.quantizable_graphs import canonical, images_for, logits
from tests.support.graphs.relevance_graphs import Builder, vit


def count(graph: Graph, op_type: str) -> int:
    return sum(n.op_type == op_type for n in graph.nodes())


def test_layer_scale_is_multiplied_into_the_linear_before_it() -> None:
    graph = canonicalize(vit().model, "vit")
    scaled = absorb_scales(graph)
    assert count(scaled, "Mul") < count(graph, "Mul")
    images = images_for(graph)
    np.testing.assert_allclose(logits(scaled, images), logits(graph, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reader", ["another reader", "the output", "a factor per token"])
def test_a_product_that_something_else_sees_or_that_is_not_per_channel_stays(reader: str) -> None:
    b = Builder()
    y = b.linear(b.op("Reshape", "image", b.constant([0, 4, 16])), 16, 16, "fc")
    factor = b.normal(4, 1) if reader == "a factor per token" else b.normal(16)
    z = b.op("Mul", y, factor)
    if reader == "another reader":
        z = b.op("Add", z, y)
    if reader != "the output":
        z = b.linear(b.op("ReduceMean", z, b.constant([1]), keepdims=0), 16, 5, "head")
    graph = canonical(b, z, (1, 4, 16))
    assert count(absorb_scales(graph), "Mul") == count(graph, "Mul") == 1
