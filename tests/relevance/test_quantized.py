"""Rules on a quantized graph: weights come out of DequantizeLinear, activations through Q/DQ pairs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.tasks.classify import logit, logits_of
from tests.support.graphs.relevance_graphs import Builder
from tests.support.relevance_at import relevance_at


def _network(quantized_weights: bool, quantized_activations: bool) -> Graph:
    b = Builder(seed=4)

    def linear(x: str, rows: int, columns: int, name: str) -> str:
        codes = b.random.integers(-128, 128, (rows, columns))
        scales = (0.01 + 0.01 * b.random.random(columns)).astype(np.float32)
        if quantized_weights:
            weight = b.op("DequantizeLinear", b.codes(codes.astype(np.int8)), b.constant(scales), axis=1)
        else:
            weight = b.constant((codes * scales).astype(np.float32))
        if quantized_activations:
            scale, zero = b.constant(0.001), b.codes(np.zeros((), np.int16))  # +-32 in fine steps: nearly lossless
            x = b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zero), scale, zero)
        return b.op("Add", b.op("MatMul", x, weight), b.normal(columns), name=name)

    x = b.op("Tanh", b.op("Reshape", "image", b.constant([0, 3, 8])), name="x")
    hidden = b.op("Gelu", linear(b.layer_norm(x, 8, "norm"), 8, 16, "hidden"), name="gelu")
    mixed = b.op("Add", x, linear(hidden, 16, 8, "fc2"), name="sum")
    pooled = b.op("ReduceMean", mixed, b.constant([1]), keepdims=0)
    return b.graph(linear(pooled, 8, 4, "logits"), (2, 3, 4))


@pytest.mark.parametrize("name", RULE_SETS)
def test_dequantized_weights_propagate_like_float_ones(name: str) -> None:
    images, results = torch.randn(3, 2, 3, 4), []
    for quantized in (False, True):
        graph = _network(quantized, quantized_activations=False)
        bound = RULE_SETS[name].bind(graph, 3)
        executor = Executor(graph, overrides=bound.overrides)
        assert torch.equal(
            logits_of(executor.run(Examples.images(images))), logits_of(Executor(graph).run(Examples.images(images)))
        )
        results.append((relevance_at(executor, images, ["x", "norm", "gelu", "sum"]), bound.firings))
    assert results[0][1] == results[1][1]
    for tensor in results[0][0]:
        plain, dequantized = (activation * g for activation, g in (relevance[tensor] for relevance, _ in results))
        torch.testing.assert_close(dequantized, plain, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", RULE_SETS)
def test_quantized_activations_let_relevance_through(name: str) -> None:
    images = torch.randn(3, 2, 3, 4)
    relevance = []
    for quantized in (False, True):
        graph = _network(True, quantized)
        executor = Executor(graph, overrides=RULE_SETS[name].bind(graph, 3).overrides)
        first = logit(torch.zeros(3, dtype=torch.int64))
        activation, g = relevance_at(executor, images, ["sum"], first)["sum"]
        relevance.append((activation * g).flatten())
    torch.testing.assert_close(*relevance, rtol=0, atol=0.01 * float(relevance[0].abs().max()))


def test_the_quantized_network_is_quantized() -> None:
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in _network(True, True).nodes()}
    assert any(v.dtype == ir.DataType.INT8 for v in _network(True, True).initializers.values())


def _quantizer(low: int, high: int) -> tuple[Graph, torch.Tensor]:
    """y = 3 * DQ(Q(Clip(x))) summed over the image, scale 0.5, codes low..high."""
    b = Builder()
    scale, zero = b.constant(0.5), b.codes(np.zeros((), np.int8))
    x = b.op("Clip", b.op("Flatten", "image", name="x"), b.constant(0.5 * low), b.constant(0.5 * high))
    value = b.op("DequantizeLinear", b.op("QuantizeLinear", x, scale, zero), scale, zero)
    graph = b.graph(b.op("MatMul", value, b.constant(np.full((6, 1), 3.0)), name="y"), (1, 2, 3))
    return graph, torch.tensor([[0.0, 0.2, 0.3, -0.8, 9.0, -9.0]]).reshape(1, 1, 2, 3)


def test_a_quantizer_passes_gradients_straight_through_inside_its_range() -> None:
    graph, image = _quantizer(-8, 7)
    bound = RULE_SETS["gradient"].bind(graph, 1)
    _, g = relevance_at(Executor(graph, overrides=bound.overrides), image, ["x"])["x"]
    assert bound.firings == {"quantizer": 1}
    assert g.flatten().tolist() == [3, 3, 3, 3, 0, 0]


def test_a_quantizer_passes_the_secant_when_asked() -> None:
    """DQ(Q(x)) / x: nothing for what is rounded to zero, a share for what is clipped."""
    graph, image = _quantizer(-8, 7)
    bound = RULE_SETS["gradient"].with_secant_quantizers().bind(graph, 1)
    _, g = relevance_at(Executor(graph, overrides=bound.overrides), image, ["x"])["x"]
    assert bound.firings == {"quantizer": 2}  # with the Clip
    expected = [3, 0, 3 * 0.5 / 0.3, 3 * 1.0 / 0.8, 3 * 3.5 / 9, 3 * 4.0 / 9]
    assert g.flatten().tolist() == pytest.approx(expected)
    assert torch.equal(
        logits_of(Executor(graph, overrides=bound.overrides).run(Examples.images(image))),
        logits_of(Executor(graph).run(Examples.images(image))),
    )


@pytest.mark.parametrize("name", RULE_SETS)
def test_secant_quantizers_keep_forward_values(name: str) -> None:
    graph, images = _network(True, True), torch.randn(3, 2, 3, 4)
    bound = RULE_SETS[name].with_secant_quantizers().bind(graph, 3)
    assert bound.firings["quantizer"] == 3
    assert torch.equal(
        logits_of(Executor(graph, overrides=bound.overrides).run(Examples.images(images))),
        logits_of(Executor(graph).run(Examples.images(images))),
    )
