"""Operators behind the last mixing of tokens run on the tokens that are read, and compute what they did."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from qvit_deploy.emit.rows import keep_read_rows
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import run, session
from tests.support.graphs.relevance_graphs import Builder

TOKENS, WIDTH = 6, 8
IMAGE = (TOKENS, 1, WIDTH)


def tokens(b: Builder) -> str:
    """[batch, TOKENS, WIDTH]."""
    return b.op("Reshape", "image", b.constant([0, TOKENS, WIDTH]), name="tokens")


def row(b: Builder, x: str, index: int, name: str = "") -> str:
    return b.op("Gather", x, b.constant(np.int64(index)), name=name, axis=1)


def narrowed(b: Builder, output: str) -> dict[str, tuple[int, ...]]:
    """What `keep_read_rows` says, after a check that it changed no output."""
    graph = b.graph(output, IMAGE)
    changed = graph.clone()
    rows = keep_read_rows(changed.model.graph)
    changed.model.graph.sort()
    onnx.checker.check_model(changed.to_proto(), full_check=True)
    images = np.random.default_rng(1).standard_normal((3, *IMAGE)).astype(np.float32)
    before, after = (run(session(g.serialize(), 1), images)[0] for g in (graph, changed))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    assert before.shape == after.shape
    shapes = shapes_of(changed, images)
    assert all(shapes[name] == len(found) for name, found in rows.items())
    return rows


def shapes_of(graph: Graph, images: np.ndarray) -> dict[str, int]:
    """Tensor -> size of its axis 1, of those that have three."""
    proto = graph.to_proto()
    names = [o for n in proto.graph.node for o in n.output]
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=n) for n in names if n not in {o.name for o in proto.graph.output}
    )
    found = run(session(proto.SerializeToString(), 1), images, None, names)
    return {name: array.shape[1] for name, array in zip(names, found, strict=True) if array.ndim == 3}


def test_an_mlp_in_front_of_the_class_token_runs_on_it_alone() -> None:
    b = Builder()
    x = tokens(b)
    hidden = b.op("Gelu", b.linear(b.layer_norm(x, WIDTH, "norm"), WIDTH, 16, "fc1", "wide"), name="hidden")
    out = b.op("Add", x, b.linear(hidden, 16, WIDTH, "fc2", "narrow"), name="out")
    rows = narrowed(b, row(b, out, 0, "class"))
    assert set(rows) == {"norm", "fc1.product", "wide", "hidden", "fc2.product", "narrow", "out"}
    assert set(rows.values()) == {(0,)}


def test_two_tokens_are_kept_in_the_order_they_are_read() -> None:
    b = Builder()
    x = b.linear(tokens(b), WIDTH, WIDTH, "fc", "mixed")
    both = b.op("Add", row(b, x, 3), row(b, x, 1), name="both")
    assert narrowed(b, both) == {"fc.product": (3, 1), "mixed": (3, 1)}


def test_quantizers_of_one_scale_go_along() -> None:
    b = Builder()
    scale, zero = b.constant(np.float32(0.05)), b.codes(np.array(0, np.int8))
    codes = b.op("QuantizeLinear", tokens(b), scale, zero, name="codes")
    value = b.op("DequantizeLinear", codes, scale, zero, name="value")
    weight = b.normal(WIDTH, WIDTH, name="fc.weight")
    x = b.op("MatMul", value, weight, name="product")
    assert narrowed(b, row(b, x, 2)) == dict.fromkeys(("codes", "value", "product"), (2,))


def softmax_of_tokens(b: Builder, x: str) -> str:
    return b.op("Softmax", x, axis=1)


def read_twice(b: Builder, x: str) -> str:
    y = b.op("Relu", x)
    return b.op("Sub", y, b.op("ReduceMean", y, b.constant([1]), keepdims=1))


def product_of_activations(b: Builder, x: str) -> str:
    return b.op("MatMul", x, b.op("MatMul", b.op("Transpose", x, perm=[0, 2, 1]), x))


@pytest.mark.parametrize("mix", [softmax_of_tokens, read_twice, product_of_activations])
def test_what_mixes_tokens_or_is_read_whole_stays(mix: Callable[[Builder, str], str]) -> None:
    b = Builder()
    mixed = mix(b, b.linear(tokens(b), WIDTH, WIDTH, "fc"))
    rows = narrowed(b, row(b, b.op("Relu", mixed, name="behind"), 0))
    assert "fc.product" not in rows and rows["behind"] == (0,)


def test_without_a_read_token_nothing_changes() -> None:
    b = Builder()
    x = b.op("ReduceMean", b.linear(tokens(b), WIDTH, WIDTH, "fc"), b.constant([1]), keepdims=0, name="mean")
    assert narrowed(b, x) == {}
