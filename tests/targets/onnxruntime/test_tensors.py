"""Intermediate tensors come from ONNX Runtime whatever it fuses."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.onnxruntime.tensors import fetched
from tests.support.graphs.canonical_cases import parse


def test_the_result_of_a_convolution_that_another_is_added_to() -> None:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    conv = "Conv <pads = [1, 1, 1, 1], group = 4>"
    model = parse(
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) e = DequantizeLinear <axis = 0> (w, t) "
        f"a = {conv} (d, e, b) c = {conv} (x, v, b) y = Add(a, c)",
        shape="1,4,8,8",
        s=np.float32(0.05),
        z=np.int8(0),
        w=random.integers(-127, 128, (8, 1, 3, 3)).astype(np.int8),
        t=np.full(8, 0.01, np.float32),
        v=normal(8, 1, 3, 3),
        b=normal(8),
    )
    image = normal(1, 4, 8, 8)
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    with_output = onnx.ModelProto()
    with_output.CopyFrom(model)
    with_output.graph.output.append(onnx.ValueInfoProto(name="a"))
    expected = ort.InferenceSession(with_output.SerializeToString(), plain).run(["a", "y"], {"x": image})
    for got, wanted in zip(fetched(model, Examples.images(image), 1, ["a", "y"]), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
