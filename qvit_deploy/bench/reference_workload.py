"""The reference workload: a fixed model timed in turn with the one that is measured.

Two files measured apart, minutes or weeks, can be compared only if the machine was as fast both times, which a shared
machine never is. Time relative to the reference does not change with the machine's clock or its other load, so `check`
compares that, where both sides have it.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

LAYERS, ROWS, WIDTH = 12, 64, 256
"""Half a millisecond on one core of a server. Changing any of these makes older measurements incomparable: then the
version of the schema changes too."""


def products(count: int) -> bytes:
    """An ONNX file of `count` products that share one weight, so that its time is proportional to their number."""
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH**0.5
    nodes = [helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, ROWS, WIDTH]) for n in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def reference_workload() -> bytes:
    """The ONNX file."""
    return products(LAYERS)
