from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.calibrate.heads import head_pairs
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from tests.support.graphs.quantizable_graphs import canonical, mixed_vit
from tests.support.graphs.relevance_graphs import Builder
from tests.support.models.demo_models import demo


@pytest.mark.parametrize("name", ["vit", "deit", "swin"])
def test_every_attention_of_a_demo_model_has_its_pairs(name: str) -> None:
    graph = demo(name).graph
    sites = find_sites(graph)
    scores, values = head_pairs(graph, sites)
    assert len(scores) == len(values) == sum(s.kind == "matmul_qk" for s in sites) > 0
    for pair, mixed in zip(scores, values, strict=True):
        columns = [pair.query, pair.key, mixed.value]
        assert pair.free_shift and mixed.free_shift
        assert len({c.site for c in columns}) == 1 and columns[0].site.endswith("qkv")
        width = pair.query.index.size
        assert sorted(np.concatenate([c.index.ravel() for c in columns])) == list(range(3 * width))
        assert sorted(mixed.projection.index.ravel()) == list(range(width))


def test_separate_projections_are_paired_too() -> None:
    graph = mixed_vit()
    scores, values = head_pairs(graph, find_sites(graph))
    assert [(p.query.site, p.key.site) for p in scores] == [("attn.q", "attn.k")]
    assert [(v.value.site, v.projection.site) for v in values] == [("attn.v", "attn.proj")]


def attention(after_query: str | None = None, second_reader: bool = False, mixing: bool = False) -> Graph:
    """One attention of two heads over [batch, 4, 16] tokens, with something on the way that may forbid the fold."""
    b = Builder(1)
    x = b.op("Reshape", "image", b.constant([0, 4, 16]))
    operands = []
    for name in "qkv":
        y = b.linear(x, 16, 16, name)
        if name == "q" and second_reader:
            extra = b.op("ReduceMean", y, b.constant([1]), keepdims=0)
        y = b.op("Transpose", b.op("Reshape", y, b.constant([0, 4, 2, 8])), perm=[0, 2, 1, 3])
        if name == "q" and after_query is not None:
            y = b.op(after_query, y)
        operands.append(y)
    scores = b.op("MatMul", operands[0], b.op("Transpose", operands[1], perm=[0, 1, 3, 2]))
    weights = b.op("Softmax", scores, axis=-1)
    if mixing:
        weights = b.op("Mul", weights, b.normal(2, 1, 1, name="mix"))
    mixed = b.op(
        "Reshape", b.op("Transpose", b.op("MatMul", weights, operands[2]), perm=[0, 2, 1, 3]), b.constant([0, 4, 16])
    )
    y = b.op("ReduceMean", b.linear(mixed, 16, 16, "proj"), b.constant([1]), keepdims=0)
    if second_reader:
        y = b.op("Add", y, extra)
    return canonical(b, b.linear(y, 16, 5, "head", "logits"), (1, 4, 16))


def test_an_attention_written_out_by_hand_is_paired() -> None:
    graph = attention()
    scores, values = head_pairs(graph, find_sites(graph))
    assert len(scores) == len(values) == 1
    np.testing.assert_array_equal(scores[0].query.index, np.arange(16).reshape(2, 8))


def test_no_pair_where_queries_are_changed_or_read_elsewhere() -> None:
    for graph in (attention(after_query="Tanh"), attention(second_reader=True)):
        scores, values = head_pairs(graph, find_sites(graph))
        assert scores == () and len(values) == 1


def test_values_are_not_shifted_when_the_weights_need_not_sum_to_one() -> None:
    graph = attention(mixing=True)
    _, values = head_pairs(graph, find_sites(graph))
    assert len(values) == 1 and not values[0].free_shift
