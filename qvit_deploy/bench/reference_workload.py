"""The reference workload: a fixed model whose blocks alternate with those of the file that is measured.

Two files measured minutes or weeks apart can be compared only if the machine was as fast both times, which a shared
machine never is. Time relative to the reference does not change with the machine's clock or its other load, so `check`
compares that, where both sides have it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

LAYERS, ROWS, WIDTH = 12, 64, 256
"""They take half a millisecond on one core of a server. Changing one makes older measurements incomparable, so the
version of the schema has to change too."""


def products(count: int) -> bytes:
    """Returns an ONNX file of `count` products that share one weight, so that its time is proportional to `count`."""
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH**0.5
    nodes = [helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, ROWS, WIDTH]) for n in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def reference_workload() -> bytes:
    """Returns the ONNX file of the reference workload."""
    return products(LAYERS)
