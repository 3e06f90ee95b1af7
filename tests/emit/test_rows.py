"""Graphs that end in Gathers on the token axis compute the read tokens only, and the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qvit_deploy.emit.rows import keep_read_rows
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import run, session
from tests.support.graphs.relevance_graphs import Builder

WIDTH, TOKENS = 8, 4
IMAGES = np.random.default_rng(0).standard_normal((3, TOKENS, 2, 4)).astype(np.float32)


def tokens(b: Builder) -> str:
    return b.op("Reshape", "image", b.constant([0, TOKENS, WIDTH]), name="tokens")


def row(b: Builder, x: str, index: int) -> str:
    return b.op("Gather", x, b.constant(np.int64(index)), axis=1, name=f"row{index}")


def head(b: Builder, x: str) -> Graph:
    return b.graph(b.linear(x, WIDTH, 3, "head", "logits"), IMAGES.shape[1:])


def narrowed(graph: Graph) -> tuple[dict[str, tuple[int, ...]], Graph]:
    """What `keep_read_rows` says of a copy, after checking that the copy computes the same."""
    copy = graph.clone()
    read_rows = keep_read_rows(copy.model.graph)
    copy.model.graph.sort()
    onnx.checker.check_model(copy.to_proto(), full_check=True)
    before, after = (run(session(g.serialize(), 1), Examples.images(IMAGES))[0] for g in (graph, copy))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    return read_rows, copy


def shapes(graph: Graph) -> dict[str, list[object]]:
    return {v.name or "": list(v.shape or ()) for n in graph.nodes() for v in n.outputs}


def mlp(b: Builder) -> str:
    x = tokens(b)
    hidden = b.op("Gelu", b.linear(b.layer_norm(x, WIDTH, "norm1"), WIDTH, 16, "fc1", "fc1"), name="hidden")
    return b.layer_norm(b.op("Add", x, b.linear(hidden, 16, WIDTH, "fc2", "fc2"), name="out"), WIDTH, "norm")


def test_one_token_is_computed_alone_and_its_gather_becomes_a_squeeze() -> None:
    b = Builder()
    read_rows, graph = narrowed(head(b, row(b, mlp(b), 0)))
    assert {"norm1", "fc1", "hidden", "fc2", "out", "norm"} <= set(read_rows) and set(read_rows.values()) == {(0,)}
    assert "tokens" not in read_rows  # a Reshape mixes rows
    assert shapes(graph)["hidden"][1:] == [1, 16]
    types = [node.op_type for node in graph.nodes()]
    assert "Squeeze" in types and types.count("Gather") == 1  # of the tokens, behind the Reshape


def test_two_tokens_are_computed_together() -> None:
    b = Builder()
    x = mlp(b)
    read_rows, graph = narrowed(head(b, b.op("Add", row(b, x, 0), row(b, x, 1))))
    assert set(read_rows.values()) <= {(0, 1), (1, 0)} and len(set(read_rows.values())) == 1
    assert shapes(graph)["hidden"][1:] == [2, 16]


def test_a_tensor_that_something_else_reads_is_computed_whole() -> None:
    b = Builder()
    x = b.op("Relu", tokens(b), name="relu")
    mean = b.op("ReduceMean", x, b.constant([1]), keepdims=0)
    read_rows, _ = narrowed(head(b, b.op("Add", row(b, b.op("Clip", x, name="clip"), 2), mean)))
    assert set(read_rows) == {"clip"}


@pytest.mark.parametrize(
    "mixing", ["softmax over tokens", "constant per token", "product from the left", "norm over tokens"]
)
def test_what_mixes_tokens_or_tells_them_apart_ends_it(mixing: str) -> None:
    b = Builder()
    x = tokens(b)
    if mixing == "softmax over tokens":
        x = b.op("Softmax", x, axis=1, name="mixed")
    elif mixing == "constant per token":
        x = b.op("Add", x, b.normal(1, TOKENS, WIDTH), name="mixed")
    elif mixing == "product from the left":
        x = b.op("MatMul", b.normal(TOKENS, TOKENS), x, name="mixed")
    else:
        x = b.op("LayerNormalization", x, b.normal(TOKENS, WIDTH), axis=1, name="mixed")
    read_rows, _ = narrowed(head(b, row(b, b.op("Relu", x, name="after"), 3)))
    assert set(read_rows) == {"after"}


def test_quantizers_keep_rows_unless_scales_are_per_token() -> None:
    b = Builder()
    scale, zero = b.constant(0.05), b.codes(np.full((), 128, np.uint8))
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", tokens(b), scale, zero, name="q"), scale, zero, name="dq")
    assert set(narrowed(head(b, row(b, x, 1)))[0]) == {"q", "dq"}
    b = Builder()
    scale, zero = b.constant(np.full(TOKENS, 0.05)), b.codes(np.full(TOKENS, 128, np.uint8))
    x = b.op("DequantizeLinear", b.op("QuantizeLinear", tokens(b), scale, zero, axis=1), scale, zero, axis=1)
    assert narrowed(head(b, row(b, x, 1)))[0] == {}


def test_without_such_a_gather_nothing_changes() -> None:
    b = Builder()
    graph = head(b, b.op("ReduceMean", mlp(b), b.constant([1]), keepdims=0))
    read_rows, copy = narrowed(graph)
    assert read_rows == {} and copy.serialize() == graph.serialize()
