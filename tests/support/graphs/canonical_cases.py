"""Small ONNX graphs written as text, and how to compare a canonical graph with its source."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from qvit_deploy.graph.canonicalize import canonicalize
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.onnxruntime.runtime import session


def parse(
    body: str, *, opset: int = 21, shape: str = "N,3,8,8", output: str = "y", **weights: np.ndarray
) -> onnx.ModelProto:
    """A model with input x, one output and `weights` as initializers; `body` is ONNX's text syntax."""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}]> g (float[{shape}] x) => (float[] {output}) {{ {body} }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def run(model: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    runner = session(model.SerializeToString(), threads=1)
    return runner.run(None, {runner.get_inputs()[0].name: image})


def canonical(model: onnx.ModelProto, *, batches: tuple[int, ...] = (1, 3)) -> Graph:
    """canonicalize(model), after checking that it computes what `model` computes at every batch size."""
    graph = canonicalize(ir.from_proto(model), "test")
    onnx.checker.check_model(graph.to_proto(), full_check=True)
    for batch in batches:
        image = np.random.default_rng(batch).standard_normal((batch, *graph.interface.image_size), dtype=np.float32)
        for expected, got in zip(run(model, image), run(graph.to_proto(), image), strict=True):
            assert got.shape == expected.shape
            scale = max(float(np.abs(expected.astype(np.float32)).max()), 1e-6)
            assert np.abs(expected - got).max() <= 1e-4 * scale
    return graph


def ops(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.nodes()]


def constant_of(graph: Graph, name: str) -> np.ndarray:
    tensor = graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()
