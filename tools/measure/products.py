"""Measures the lower bound of a bundle's time in ONNX Runtime: its matrix products alone, in float32 and on integers.

Every linear of the bundle, at its shape for the batch, runs as a model of one operator: MatMul, and
MatMulIntegerToFloat on uint8 x int8 as in the emitted files, in turn in one process on one thread. The sum over the
linears is the time of a file in which everything else is free and every weight is in the caches already.

    python -m tools.measure.products BUNDLE [--batch 1] [--repeats 200]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.bench.device.environment import environment
from qvit_deploy.targets.onnxruntime import runtime as target

Shape = tuple[int, int, int]
"""Rows, reduction, columns."""


def shapes(model: Path, batch: int) -> Counter[Shape]:
    """Counts the shapes of the products with a constant weight in the float file."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(str(model)))
    constants = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    values = (*proto.graph.value_info, *proto.graph.input)
    known = {v.name: v.type.tensor_type.shape.dim for v in values}
    counts: Counter[Shape] = Counter()
    for node in proto.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            k, n = constants[node.input[1]]
            rows = batch
            for size in known[node.input[0]][1:-1]:
                rows *= size.dim_value
            counts[rows, k, n] += 1
    return counts


def sessions(shape: Shape) -> tuple[ort.InferenceSession, ort.InferenceSession]:
    """Opens (float32 product, integer product with per-channel scales and a bias)."""
    _, k, n = shape
    draw = np.random.default_rng(0)
    codes = draw.integers(-127, 128, (k, n), dtype=np.int8)
    constants = {
        "float": codes.astype(np.float32) / 127,
        "codes": codes,
        "x_scale": np.array(0.01, np.float32),
        "scales": draw.random(n, dtype=np.float32) + np.float32(0.1),
        "zero": np.array(128, np.uint8),
        "bias": draw.random(n, dtype=np.float32),
    }
    product = helper.make_node("MatMul", ["x", "float"], ["y"])
    inputs = ["x", "codes", "x_scale", "scales", "zero", "", "bias"]
    integer = helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain="com.microsoft")
    return _one(product, TensorProto.FLOAT, shape, constants), _one(integer, TensorProto.UINT8, shape, constants)


def _one(node: onnx.NodeProto, kind: int, shape: Shape, constants: dict[str, np.ndarray]) -> ort.InferenceSession:
    rows, k, n = shape
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", kind, [rows, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, n])],
        [numpy_helper.from_array(v, name) for name, v in constants.items() if name in node.input],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return target.session(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString(), threads=1)


def measure(shape: Shape, repeats: int) -> tuple[float, float]:
    """Returns the median milliseconds of the two products, timed in turn."""
    rows, k, _ = shape
    draw = np.random.default_rng(1)
    milliseconds: tuple[list[float], list[float]] = ([], [])
    bound = []
    for session, x in zip(
        sessions(shape), (draw.standard_normal((rows, k), np.float32), draw.integers(0, 256, (rows, k), np.uint8)),
        strict=True,
    ):  # fmt: skip
        binding = session.io_binding()
        binding.bind_cpu_input("x", x)
        binding.bind_output("y")
        bound.append((session, binding))
    for _ in range(repeats):
        for (session, binding), times in zip(bound, milliseconds, strict=True):
            start = time.perf_counter_ns()
            session.run_with_iobinding(binding)
            times.append((time.perf_counter_ns() - start) / 1e6)
    slow, fast = (statistics.median(times[repeats // 10 :]) for times in milliseconds)
    return slow, fast


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    counts = shapes(read_bundle(arguments.bundle).path_of("model.float.onnx"), arguments.batch)
    table = Table("rows x reduction x columns", "linears", "float32, ms", "integer, ms", "ratio", "integer, GMAC/s")
    total = [0.0, 0.0]
    for shape, count in counts.items():
        slow, fast = measure(shape, arguments.repeats)
        total = [total[0] + count * slow, total[1] + count * fast]
        rate = np.prod(shape) / fast / 1e6
        name = " x ".join(map(str, shape))
        table.add_row(name, str(count), f"{slow:.4f}", f"{fast:.4f}", f"{slow / fast:.2f}x", f"{rate:.0f}")
    table.add_row("all", str(counts.total()), f"{total[0]:.3f}", f"{total[1]:.3f}", f"{total[0] / total[1]:.2f}x", "")
    console = Console(width=110)
    console.print(table)
    console.print(f"batch {arguments.batch}, 1 thread; {environment().cpu}; onnxruntime {ort.__version__}")


if __name__ == "__main__":
    main()
