"""Models of several inputs, and of none that is an image."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.synthetic import noise

BODY = """{
    size = Shape <start = 0, end = 1> (ids)
    rest = Constant <value_ints = [-1, 3]> ()
    one = Constant <value_ints = [3]> ()
    target = Concat <axis = 0> (size, rest)
    summed = ReduceSum <keepdims = 0> (pixels, axes)
    flat = Unsqueeze (summed, axes1)
    table = Constant <value_floats = [0.5, -1.0, 2.0]> ()
    picked = Gather (table, ids)
    moved = Mul (picked, scale)
    joined = Add (flat, moved)
    halves = Cast <to = 1> (attention_mask)
    y = Mul (joined, halves)
}"""


def model(batch: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 21]>
        g (float[{batch},3,4,4] pixels, int64[{batch},2] ids, bool[{batch},2] attention_mask, float[2] scale)
        => (float[{batch},2] y) <int64[3] axes = {{1, 2, 3}}, int64[1] axes1 = {{1}}> {BODY}"""
    )


@pytest.mark.parametrize("batch", ["N", "4"])
def test_every_input_stays_under_its_name_and_the_image_is_called_so(batch: str) -> None:
    proto = model(batch)
    graph = canonicalize(ir.from_proto(proto), "test")
    expected = "batch" if batch == "N" else 4
    assert [(i.name, i.kind, i.shape) for i in graph.interface.inputs] == [
        ("image", "image", (expected, 3, 4, 4)),
        ("ids", "tokens", (expected, 2)),
        ("attention_mask", "mask", (expected, 2)),
        ("scale", "tensor", (2,)),
    ]
    examples = noise(graph.interface.inputs, 4)
    values = {**examples.arrays, "ids": np.array([[0, 1], [2, 2], [1, 0], [0, 2]])}
    examples = Examples(values, examples.shared)
    assert list(examples.shared) == ["scale"]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = examples.feeds
    (theirs,) = session.run(None, {"pixels": feeds.pop("image"), **feeds})
    (ours,) = Executor(graph).run(examples.map(torch.from_numpy)).values()
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)


def test_a_graph_without_an_image() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 21]>
        g (float[N,4] points, int64[N] labels) => (float[N,4] y) { f = Cast <to = 1> (labels) n = Shape(points)
        a = Constant <value_ints = [1]> () u = Unsqueeze (f, a) y = Add (points, u) }"""
    )
    graph = canonicalize(ir.from_proto(proto), "test")
    assert graph.interface.image is None and [i.name for i in graph.interface.inputs] == ["points", "labels"]
    examples = Examples({"points": torch.ones(2, 4), "labels": torch.tensor([0, 3])})
    (y,) = Executor(graph).run(examples).values()
    assert y.tolist() == [[1.0] * 4, [4.0] * 4]
