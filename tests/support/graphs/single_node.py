"""A graph of one operator: its first tensor is the graph's input, the others are constants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper, numpy_helper

from qvit_deploy.graph.graph import CANONICAL_OPSET, Graph

Array = np.ndarray


def single_node(op: str, inputs: Sequence[Array | None], outputs: int = 1, **attributes: object) -> onnx.ModelProto:
    names = ["" if array is None else ("image" if i == 0 else f"c{i}") for i, array in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    if op == "Cast" or op == "ConstantOfShape":
        attributes = {k: _attribute(v) for k, v in attributes.items()}
    node = helper.make_node(op, names, results, name="node", **attributes)
    first = inputs[0]
    assert first is not None
    graph = helper.make_graph(
        [node],
        "single",
        [helper.make_tensor_value_info("image", helper.np_dtype_to_tensor_dtype(first.dtype), list(first.shape))],
        [onnx.ValueInfoProto(name=name) for name in results],
        [numpy_helper.from_array(a, n) for a, n in zip(inputs[1:], names[1:], strict=True) if a is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", CANONICAL_OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _attribute(value: object) -> object:
    return numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value


def as_graph(model: onnx.ModelProto) -> Graph:
    return Graph(ir.from_proto(model), "single")


def onnxruntime_outputs(model: onnx.ModelProto, first: Array) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": first})
