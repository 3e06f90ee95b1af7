"""Settles initializers that share a name, which the ONNX standard forbids and exporters' post-processing writes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from qvit_deploy.errors import InputError


def settle_duplicates(path: Path, graph: onnx.GraphProto) -> None:
    """Leaves one initializer of every name in `graph`: the one that ONNX Runtime reads.

    ONNX Runtime warns that it takes the last. Of tensors of 128 bytes and more, version 1.32 takes another, so where
    the values differ it is asked: the file meant what its runtime computed.

    Raises:
        InputError: the values differ and lie outside of the file.
    """
    counts = Counter(tensor.name for tensor in graph.initializer)
    for name in [name for name, count in counts.items() if count > 1]:
        tensors = [tensor for tensor in graph.initializer if tensor.name == name]
        if len({tensor.SerializeToString(deterministic=True) for tensor in tensors}) == 1:
            kept = tensors[0]
        elif any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
            raise InputError(f"{path} has {len(tensors)} weights called {name!r}; give each a name of its own")
        else:
            kept = numpy_helper.from_array(_read_by_runtime(tensors), name)
        others = [tensor for tensor in graph.initializer if tensor.name != name]
        del graph.initializer[:]
        graph.initializer.extend([*others, kept])


def _read_by_runtime(tensors: list[TensorProto]) -> np.ndarray:
    name = tensors[0].name
    read = f"{name}.read"
    outputs = [helper.make_tensor_value_info(read, tensors[0].data_type, None)]
    graph = helper.make_graph([helper.make_node("Identity", [name], [read])], "duplicates", [], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0])
