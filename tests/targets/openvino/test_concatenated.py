"""A convolution of a quantized concatenation, which OpenVINO computes wrongly unless every part is quantized."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.plan import Plan
from qvit_deploy.targets.onnxruntime.runtime import run, session
from qvit_deploy.targets.openvino.emission import emit_openvino
from qvit_deploy.targets.openvino.verification import verify_openvino
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, canonical
from tests.support.graphs.relevance_graphs import Builder


@cache
def fusion() -> Calibrated:
    """The end of a MobileViT block: a feature map next to what its tokens became, under one convolution."""
    b = Builder(1)
    x = b.op("Conv", "image", b.normal(8, 3, 2, 2, scale=0.3), b.normal(8), strides=[2, 2], kernel_shape=[2, 2])
    x = b.op("Mul", x, b.op("Sigmoid", x))
    tokens = b.op("Transpose", b.op("Reshape", x, b.constant([0, 8, 16])), perm=[0, 2, 1])
    tokens = b.layer_norm(b.linear(tokens, 8, 8, "mlp"), 8, "norm")
    back = b.op("Reshape", b.op("Transpose", tokens, perm=[0, 2, 1]), b.constant([0, 8, 4, 4]))
    both = b.op("Concat", x, back, axis=1, name="both")
    kernel = b.normal(8, 16, 3, 3, scale=0.1, name="fusion.weight")
    y = b.op("Conv", both, kernel, b.normal(8), pads=[1, 1, 1, 1], kernel_shape=[3, 3], name="fusion")
    pooled = b.op("ReduceMean", b.op("Sigmoid", y), b.constant([2, 3]), keepdims=0)
    return calibrate(canonical(b, b.linear(pooled, 8, 5, "head", "logits"), (3, 8, 8)), (4, 8))


def emitted(bits: int) -> tuple[Graph, Plan]:
    plan = fusion().plan((bits, bits))
    return emit_qdq(fusion().graph, plan), plan


@pytest.mark.parametrize("bits", [4, 8])
def test_the_parts_are_quantized(bits: int) -> None:
    graph, _ = emitted(bits)
    written = emit_openvino(graph)
    makers = {name: node for node in written.proto.graph.node for name in node.output}
    joined = makers[f"both_out.q{bits}"]
    assert joined.op_type == "Concat" and [makers[name].op_type for name in joined.input] == ["QuantizeLinear"] * 2
    assert "both_out" not in makers and "both_out" in {name for node in written.left_out for name in node.output}
    images = Examples.images(fusion().images.numpy())
    before, after = (run(session(m.serialize(), 1), images)[0] for m in (graph, written))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_openvino_computes_it(bits: int) -> None:
    pytest.importorskip("openvino")
    graph, plan = emitted(bits)
    images = Examples.images(fusion().images.numpy())
    verified = verify_openvino(fusion().graph, graph, emit_openvino(graph), plan, images)
    assert verified.codes and verified.reference_sqnr_db is not None and verified.reference_sqnr_db > 30
