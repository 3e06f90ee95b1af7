from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.execute.executor import merged_bias
from qvit_deploy.graph.edit import remove_unused
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.query import (
    bias_of,
    names_with_gradient,
    node_making,
    nodes_by_output,
    producer,
    producers,
    sole_reader,
)
from tests.support.graphs.relevance_graphs import Builder


def mlp(b: Builder, bias: str = "vector", also_read: bool = False) -> Graph:
    """A linear called `fc` and what adds its bias, `biased`, on 4 tokens of 6."""
    x = b.op("Reshape", "image", b.constant([0, 4, 6]), name="tokens")
    product = b.op("MatMul", x, b.normal(6, 6), name="fc")
    added = {"vector": [product, b.normal(6)], "matrix": [product, b.normal(1, 6)], "first": [b.normal(6), product],
             "data": [product, x]}[bias]  # fmt: skip
    y = b.op("Add", *added, name="biased")
    if also_read:
        y = b.op("Add", y, product)
    return b.graph(b.op("ReduceMean", y, b.constant([1]), keepdims=0, name="out"), (4, 2, 3))


def test_nodes_are_found_by_what_they_make() -> None:
    graph = mlp(Builder())
    assert list(nodes_by_output(graph)) == ["tokens", "fc", "biased", "out"]
    assert node_making(graph, "fc") is nodes_by_output(graph)["fc"]
    with pytest.raises(KeyError, match="no node makes a tensor named 'image'"):
        node_making(graph, "image")


def test_a_producer_is_asked_for_by_its_kind() -> None:
    node = node_making(mlp(Builder()), "biased")
    assert producer(node.inputs[0]) is producer(node.inputs[0], "Conv", "MatMul") is not None
    assert producer(node.inputs[0], "Conv") is producer(node.inputs[1]) is producer(None) is None


def test_producers_are_looked_for_behind_what_moves_values() -> None:
    b = Builder()
    x = b.op("Relu", "image", name="relu")
    y = b.op("Concat", b.op("Transpose", x, perm=[0, 2, 1]), b.op("Exp", "image", name="exp"), axis=1)
    graph = b.graph(b.op("Slice", y, b.constant([0]), b.constant([2]), b.constant([1]), name="cut"), (3, 3))
    outputs = {node.outputs[0].name for node in producers(node_making(graph, "cut").outputs[0])}
    assert outputs == {"relu", "exp"}


def test_only_what_is_read_once_and_is_no_output_has_a_sole_reader() -> None:
    graph = mlp(Builder(), also_read=True)
    nodes = nodes_by_output(graph)
    assert sole_reader(nodes["tokens"].outputs[0]) is sole_reader(nodes["tokens"].outputs[0], "MatMul") is nodes["fc"]
    assert sole_reader(nodes["tokens"].outputs[0], "Add") is None
    assert sole_reader(nodes["fc"].outputs[0]) is sole_reader(nodes["out"].outputs[0]) is None


@pytest.mark.parametrize(
    ("bias", "also_read"), [("matrix", False), ("first", False), ("data", False), ("vector", True)]
)
def test_what_is_no_bias(bias: str, also_read: bool) -> None:
    product = node_making(mlp(Builder(), bias, also_read), "fc")
    assert bias_of(product) is merged_bias(product) is None


def test_a_bias_runs_with_its_product_when_the_weight_is_a_matrix_in_the_file() -> None:
    graph = mlp(Builder())
    product, add = node_making(graph, "fc"), node_making(graph, "biased")
    assert bias_of(product) is merged_bias(product) is add
    b = Builder()
    weight = b.op("DequantizeLinear", b.codes(np.ones((6, 6), np.int8)), b.constant(0.1))
    y = b.op("Add", b.op("MatMul", "image", weight, name="fc"), b.normal(6), name="biased")
    graph = b.graph(y, (4, 6))
    product = node_making(graph, "fc")
    assert bias_of(product) is node_making(graph, "biased") and merged_bias(product) is None


def test_what_nothing_reads_is_removed_with_all_that_only_it_read() -> None:
    b = Builder()
    b.op("Exp", b.op("MatMul", "image", b.normal(4, 4, name="unread"), name="dead"))
    graph = b.graph(b.op("Mul", "image", b.constant(2.0, "read"), name="out"), (4, 4))
    remove_unused(graph.model)
    assert list(nodes_by_output(graph)) == ["out"] and list(graph.initializers) == ["read"]


def test_a_gradient_goes_through_quantizers_although_codes_are_integers() -> None:
    b = Builder()
    scale, zero = b.constant(0.1), b.codes(np.array(0, np.int8))
    b.op("DequantizeLinear", b.op("QuantizeLinear", "image", scale, zero, name="codes"), scale, zero, name="rounded")
    graph = b.graph(b.op("Relu", "rounded", name="out"), (4, 2, 3))
    assert names_with_gradient(graph) == {"image", "codes", "rounded", "out"}


def test_a_gradient_goes_through_neither_shapes_nor_steps_nor_integers() -> None:
    b = Builder()
    b.op("Relu", "image", name="relu")
    b.op("Shape", "image", name="shape")
    b.op("Floor", "relu", name="floor")
    b.op("ArgMax", "relu", axis=1, keepdims=0, name="best")
    b.op("Cast", "best", to=1, name="best as float")
    b.op("Add", "relu", "floor", name="sum")
    b.op("Expand", b.normal(1, 4, 2, 3), "shape", name="queries")
    b.op("MatMul", "queries", b.normal(3, 3), name="projected")
    graph = b.graph(b.op("Mul", "sum", "projected", name="out"), (4, 2, 3))
    assert names_with_gradient(graph) == {"image", "relu", "sum", "out"}
