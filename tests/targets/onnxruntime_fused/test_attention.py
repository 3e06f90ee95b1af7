"""Which attentions become one operator, on graphs of nothing else; what they compute stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.onnxruntime_fused.attention import fuse_attention
from qvit_deploy.targets.onnxruntime_fused.emission import OPSET
from tests.support.graphs.relevance_graphs import Builder

TOKENS, HEADS, DEPTH = 5, 2, 4
WIDTH = HEADS * DEPTH
IMAGE = (TOKENS, 1, 3 * WIDTH)


def fused(graph: Graph) -> tuple[int, Graph]:
    """(how many attentions were replaced, the graph then), after a check that the output is what it was."""
    changed = graph.clone()
    count = fuse_attention(changed.model.graph)
    changed.model.graph.sort()
    changed.model.graph.opset_imports[""] = OPSET
    changed.model.ir_version = 11
    onnx.checker.check_model(changed.to_proto())
    images = np.random.default_rng(1).standard_normal((3, *IMAGE)).astype(np.float32)
    before, after = (run(session(g.serialize(), 1), Examples.images(images))[0] for g in (graph, changed))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    return count, changed


def parts(b: Builder, together: bool) -> tuple[str, str, str]:
    """Query, transposed key and value, each from its own part of the tokens, or all from one."""
    x = b.op("Reshape", "image", b.constant([0, TOKENS, 3 * WIDTH]), name="tokens")
    if together:
        split = b.op("Reshape", x, b.constant([0, TOKENS, 3, HEADS, DEPTH]))
        heads = b.op("Transpose", split, perm=[2, 0, 3, 1, 4])
        q, k, v = (b.op("Gather", heads, b.constant(np.int64(i)), axis=0) for i in range(3))
        return q, b.op("Transpose", k, perm=[0, 1, 3, 2]), v
    operands = []
    for i, perm in enumerate(([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])):
        own = b.op("MatMul", x, b.normal(3 * WIDTH, WIDTH, scale=0.3, name=f"w{i}"))
        operands.append(b.op("Transpose", b.op("Reshape", own, b.constant([0, TOKENS, HEADS, DEPTH])), perm=perm))
    return operands[0], operands[1], operands[2]


def joined(b: Builder, mixed: str) -> str:
    """The heads side by side, and what a classifier makes of them."""
    tokens = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.constant([0, TOKENS, WIDTH]))
    return b.op("ReduceMean", tokens, b.constant([1]), keepdims=0, name="logits")


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("factor", [None, 0.5])
def test_one_operator_takes_the_heads_where_they_lie(together: bool, factor: float | None) -> None:
    b = Builder()
    q, k, v = parts(b, together)
    q = q if factor is None else b.op("Mul", q, b.constant(factor))
    output = joined(b, b.op("MatMul", b.op("Softmax", b.op("MatMul", q, k), axis=-1), v))
    count, graph = fused(b.graph(output, IMAGE))
    (node,) = [n for n in graph.nodes() if n.op_type == "Attention"]
    assert count == 1 and node.attributes.get_float("scale") == (factor or 1.0)
    assert [n.op_type for n in graph.nodes()].count("Split") == together
    sources = {v.name for v in node.inputs if v is not None}
    assert len(sources) == 3 and all(v is not None and v.shape is not None and len(v.shape) == 3 for v in node.inputs)


def biased(b: Builder, scores: str) -> str:
    return b.op("Add", scores, b.normal(TOKENS, TOKENS))


def read_twice(b: Builder, scores: str) -> str:
    return b.op("Sub", scores, b.op("ReduceMax", scores, b.constant([-1])))


@pytest.mark.parametrize("between", [biased, read_twice])
def test_what_stands_before_the_softmax_keeps_it_apart(between: Callable[[Builder, str], str]) -> None:
    b = Builder()
    q, k, v = parts(b, together=False)
    scores = between(b, b.op("MatMul", q, k))
    count, graph = fused(b.graph(joined(b, b.op("MatMul", b.op("Softmax", scores, axis=-1), v)), IMAGE))
    assert count == 0 and not any(n.op_type == "Attention" for n in graph.nodes())


def test_probabilities_that_others_read_and_negative_factors_keep_it_apart() -> None:
    for case in ("read", "negative", "axis"):
        b = Builder()
        q, k, v = parts(b, together=False)
        q = b.op("Mul", q, b.constant(-0.5)) if case == "negative" else q
        p = b.op("Softmax", b.op("MatMul", q, k), axis=2 if case == "axis" else -1)
        output = joined(b, b.op("MatMul", p, v))
        if case == "read":
            mean = b.op("ReduceMean", b.op("ReduceMean", p, b.constant([2, 3]), keepdims=0), b.constant([1]))
            output = b.op("Add", output, mean, name="sum")
        assert fused(b.graph(output, IMAGE))[0] == 0, case
