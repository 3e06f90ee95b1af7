"""Measures the forms in which ONNX Runtime can run a quantized convolution, for `onnxruntime_fused.convolution`.

Every form is a model of one convolution, from the float input and its quantizer to the float output, bias and all; the
forms of one shape run in turn in one process on one thread. Printed are the first deciles, which other load on the
machine hardly moves: milliseconds of Q/DQ pairs, and how many times as fast the other forms are. All forms compute the
same numbers, which is checked.

    python -m tools.measure.convolutions [--repeats 60]
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from qvit_deploy.bench.device.environment import environment
from qvit_deploy.targets.onnxruntime import runtime as target


class Shape(NamedTuple):
    """A square convolution with padding for its own size, and what has it."""

    rows: int
    columns: int
    size: int
    kernel: int
    stride: int
    groups: int
    seen_in: str


SHAPES = (
    Shape(256, 256, 56, 1, 1, 1, "lateral"),
    Shape(64, 256, 56, 1, 1, 1, "lateral"),
    Shape(256, 256, 28, 3, 1, 1, "FPN, RPN and DPT outputs"),
    Shape(256, 256, 14, 3, 1, 1, "FPN, RPN and DPT outputs"),
    Shape(64, 64, 56, 3, 1, 1, "DPT fusion"),
    Shape(32, 32, 56, 3, 1, 1, "depth head"),
    Shape(3, 32, 224, 3, 2, 1, "overlapping stem"),
    Shape(16, 32, 112, 3, 2, 1, "overlapping stem"),
    Shape(64, 128, 56, 3, 2, 1, "PVT v2, CvT embedding"),
    Shape(96, 96, 24, 3, 1, 1, "MobileViT"),
    Shape(64, 64, 56, 8, 8, 1, "PVT reduction"),
    Shape(128, 128, 28, 3, 1, 4, "4 groups"),
    Shape(128, 128, 28, 3, 1, 32, "32 groups"),
    Shape(64, 128, 28, 5, 1, 64, "2 outputs for each group"),
    Shape(96, 96, 56, 7, 1, 96, "depthwise"),
    Shape(256, 256, 28, 5, 1, 256, "depthwise"),
    Shape(64, 64, 56, 5, 1, 64, "depthwise"),
)
TYPES = {"u8": np.uint8(128), "s8": np.int8(0)}
"""Types of codes, and their zero points."""
QDQ, FLOAT = "Q/DQ, in float", "float weight"
ROW = (QDQ, FLOAT, "s8 x u8", "u8 x u8", "u8 x s8", "s8 x s8")
"""Q/DQ pairs, codes as numbers by a weight with all scales, and ConvInteger by types of input and weight."""


def forms(shape: Shape) -> dict[str, ort.InferenceSession]:
    """Returns the form's name -> its session."""
    draw = np.random.default_rng(0)
    kernel = [shape.kernel, shape.kernel]
    codes = draw.integers(-127, 128, (shape.columns, shape.rows // shape.groups, *kernel)).astype(np.int8)
    scales = draw.random(shape.columns, np.float32) / 100 + np.float32(0.005)
    step, bias = np.float32(0.03), draw.random(shape.columns, np.float32)
    pad = 0 if shape.stride == shape.kernel else shape.kernel // 2
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [shape.stride] * 2,
        "pads": [pad] * 4,
        "group": shape.groups,
    }
    quantize = helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["codes"])
    constants = {"step": step, "zero": TYPES["s8"], "weight": codes, "scales": scales, "bias": bias}
    pairs = [
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["value"]),
        helper.make_node("DequantizeLinear", ["weight", "scales"], ["kernel"], axis=0),
        helper.make_node("Conv", ["value", "kernel", "bias"], ["y"], **attributes),
    ]
    numbers = [
        helper.make_node("Cast", ["codes"], ["value"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["value", "kernel", "bias"], ["y"], **attributes),
    ]
    both = codes.astype(np.float32) * (step * scales).reshape(-1, 1, 1, 1)
    models = {
        QDQ: _session(shape, [quantize, *pairs], constants),
        FLOAT: _session(shape, [quantize, *numbers], {**constants, "kernel": both}),
    }
    integer = [
        helper.make_node("ConvInteger", ["codes", "weight", "zero", "weight_zero"], ["sums"], **attributes),
        helper.make_node("DequantizeLinear", ["sums", "product"], ["scaled"], axis=1),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
    ]
    constants |= {"product": step * scales, "bias": bias.reshape(-1, 1, 1)}
    for x_type, zero in TYPES.items():
        for w_type, weight_zero in TYPES.items():
            weight = (codes.astype(np.int16) + int(weight_zero)).astype(weight_zero.dtype)
            own = {"zero": zero, "weight": weight, "weight_zero": weight_zero}
            models[f"{x_type} x {w_type}"] = _session(shape, [quantize, *integer], {**constants, **own})
    return models


def _session(
    shape: Shape, nodes: list[NodeProto], constants: dict[str, np.ndarray | np.generic]
) -> ort.InferenceSession:
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, shape.rows, shape.size, shape.size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items() if name in read],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return target.session(model.SerializeToString(), threads=1)


def measure(shape: Shape, repeats: int) -> dict[str, float]:
    """Returns the form's name -> first decile of milliseconds, the forms timed in turn.

    Raises:
        AssertionError: a form computes other numbers.
    """
    sessions, times = forms(shape), {name: list[float]() for name in ROW}
    x = {"x": np.random.default_rng(1).standard_normal((1, shape.rows, shape.size, shape.size), np.float32)}
    expected = sessions[QDQ].run(None, x)[0]
    for session in sessions.values():
        np.testing.assert_allclose(session.run(None, x)[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for _ in range(repeats):
        for name in ROW:
            start = time.perf_counter_ns()
            sessions[name].run(None, x)
            times[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: float(np.quantile(nanoseconds, 0.1)) for name, nanoseconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=60)
    repeats = parser.parse_args().repeats
    table = Table("in, out, size, kernel, stride, groups", "seen in", "Q/DQ, ms", *ROW[1:])
    for shape in SHAPES:
        times = measure(shape, repeats)
        ratios = [f"{times[QDQ] / times[name]:.2f}x" for name in ROW[1:]]
        table.add_row(" ".join(map(str, shape[:-1])), shape.seen_in, f"{times[QDQ]:.3f}", *ratios)
    console = Console(width=130)
    console.print(table)
    console.print(f"batch 1, 1 thread; {environment().cpu}; onnxruntime {ort.__version__}")


if __name__ == "__main__":
    main()
