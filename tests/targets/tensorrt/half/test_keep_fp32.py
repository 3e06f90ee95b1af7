"""Which nodes keep float32, on graphs of a few nodes; what it does to a whole file is in test_precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.tensorrt.half.keep_fp32 import LARGEST, SCALE_ERROR, SMALLEST, fits_scale, float32_nodes


def reasons(body: str, largest: Mapping[str, float], ends: tuple[str, ...] = ()) -> dict[str, str]:
    """Output -> why its node keeps float32, of a graph from `x` float32 [2, 8] to `y`, in ONNX's text format."""
    text = f'<ir_version: 10, opset_import: ["" : 21]> g (float[2, 8] x) => (float[2, 8] y) {{ {body} }}'
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    graph = Graph(ir.from_proto(proto), "tiny")
    return {node.outputs[0].name or "": why for node, why in float32_nodes(graph, largest, ends).items()}


@pytest.mark.parametrize(
    ("largest", "words"),
    [
        (LARGEST, None),
        (LARGEST * 1.01, "reaches"),
        (float("inf"), "reaches inf"),
        (SMALLEST, None),
        (SMALLEST / 2, "stays below"),
        (0.0, None),
    ],
)
def test_a_tensor_outside_of_float16_takes_its_maker_and_its_reader_along(largest: float, words: str | None) -> None:
    why = reasons("a = Gelu(x)\nb = Erf(a)\ny = Tanh(b)", {"a": largest})
    assert set(why) == (set() if words is None else {"a", "b"})
    assert words is None or all(words in reason for reason in why.values())


@pytest.mark.parametrize(("op", "limit"), [("ReduceMean", LARGEST / 8), ("ReduceL2", (LARGEST / 8) ** 0.5)])
def test_a_sum_that_may_overflow_is_kept_although_its_terms_fit(op: str, limit: float) -> None:
    body = f"axes = Constant<value = int64[1] {{1}}>()\na = Gelu(x)\ns = {op}<keepdims = 1>(a, axes)\ny = Add(a, s)"
    assert "s" not in reasons(body, {"a": 0.99 * limit})
    assert "adds up to" in reasons(body, {"a": 1.01 * limit})["s"]


def test_values_that_are_float32_already_are_moved_as_they_are() -> None:
    """A Reshape of the float32 input stays, for no reason of its own; of an input in half precision it does not."""
    body = "shape = Constant<value = int64[2] {2, 8}>()\na = Reshape(x, shape)\ny = Gelu(a)"
    assert reasons(body, {}) == {"a": ""}
    assert reasons(body, {}, ends=("x",)) == {}


@pytest.mark.parametrize(("scale", "stays_float32"), [(0.5, False), (0.3, True)])
def test_a_quantizer_keeps_a_scale_that_float16_does_not_hold_exactly(scale: float, stays_float32: bool) -> None:
    body = f"""
        s = Constant<value = float {{{scale}}}>()
        zero = Constant<value = int8 {{0}}>()
        a = Gelu(x)
        q = QuantizeLinear(a, s, zero)
        y = DequantizeLinear(q, s, zero)
    """
    why = reasons(body, {})
    assert ("not exact" in why["q"]) if stays_float32 else "q" not in why


@given(st.lists(st.floats(2.0**-30, 1e5, width=32), min_size=1, max_size=8))
def test_scales_fit_when_float16_is_near_each_of_them(values: list[float]) -> None:
    scale = np.array(values, np.float32)
    with np.errstate(over="ignore"):
        rounded = scale.astype(np.float16).astype(np.float64)
    near = np.abs(rounded - scale) <= SCALE_ERROR * scale
    assert fits_scale(scale) == bool((near & (rounded > 0)).all())
