"""What holds for any graph, however broken: the lint answers, and always the same."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper

from qvit_deploy.commands.inspect import describe
from qvit_deploy.lint import RULES, SEVERITIES, lint
from qvit_deploy.lint.finding import EVERYWHERE
from tests.support.graphs.lint_examples import EXAMPLES

OPS = [
    "QuantizeLinear", "DequantizeLinear", "MatMul", "Gemm", "Conv", "Softmax", "Add", "Mul", "Div", "Sub", "Sqrt",
    "Pow", "ReduceMean", "Erf", "Tanh", "Cast", "Clip", "Transpose", "Reshape", "Concat", "Gather", "Split", "Constant",
    "LayerNormalization", "Identity", "If", "Nonsense", "DynamicQuantizeLinear", "Max",
]  # fmt: skip
ARRAYS = [
    np.float32(0.1), np.float32(np.nan), np.float32(-np.inf), np.float16(1e-7), np.float64(2.0), np.int8(0),
    np.uint8(7), np.int64(1), np.array([-1]), np.int32(3), np.int16(0), np.bool_(True), np.zeros(0, np.float32),
    np.ones((4, 4), np.float32), np.ones((4, 4), np.int8), np.full(4, 0.1, np.float32),
    np.zeros((4, 4), ml_dtypes.int4), np.asarray(1, ml_dtypes.bfloat16), np.asarray(1, ml_dtypes.float8_e4m3fn),
]  # fmt: skip
ATTRIBUTES = ["axis", "block_size", "output_dtype", "to", "transB", "perm", "axes", "keepdims", "value", "approximate"]
ATTRIBUTES += ["plugin_namespace", "plugin_version", "tensorrt_plugin_shape_input_indices"]
VALUES = st.sampled_from([0, 1, -1, 99, 1.5, "text", "", [0, 1], [-1], [0.5], ["a"]])
CONSTANTS = [f"c{i}" for i in range(len(ARRAYS) + 1)]
DOMAINS = ["", "", "", "ai.onnx", "com.microsoft", "viq", "qonnx.custom_op.general"]


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Nodes with any inputs, of earlier or of no nodes, and any attributes; most are no valid ONNX."""
    names = ["x", "y", "", "nowhere", *CONSTANTS]
    nodes = []
    for i in range(draw(st.integers(1, 12))):
        inputs = draw(st.lists(st.sampled_from(names), max_size=4))
        attributes = draw(st.dictionaries(st.sampled_from(ATTRIBUTES), VALUES, max_size=3))
        outputs = [f"t{i}", f"t{i}.1"][: draw(st.integers(1, 2))]
        op, domain = draw(st.sampled_from(OPS)), draw(st.sampled_from(DOMAINS))
        name = draw(st.sampled_from(["", "node", f"node{i}"]))
        nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        names += outputs
    shapes = draw(st.lists(st.sampled_from([None, ["N", 4, 4], [1, 4, 4], [], [4]]), min_size=2, max_size=2))
    types = draw(st.lists(st.sampled_from([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8]), min_size=2))
    inputs = [helper.make_tensor_value_info(n, t, s) for n, t, s in zip("xy", types, shapes, strict=False)]
    outputs = [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, None)]
    tensors = [ir.to_proto(ir.tensor(a, name=n)) for n, a in zip(CONSTANTS, ARRAYS, strict=False)]
    tensors.append(helper.make_tensor(CONSTANTS[-1], TensorProto.STRING, [1], [b"text"]))
    opset = draw(st.sampled_from([1, 7, 13, 17, 21, 23, 999]))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in DOMAINS[4:])]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, tensors), opset_imports=imports)


@settings(max_examples=150, deadline=None)
@given(graphs(), st.sampled_from(EVERYWHERE))
def test_the_lint_answers_any_graph_and_always_the_same(proto: onnx.ModelProto, target: str) -> None:
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    findings = lint(model, target)  # type: ignore[arg-type]
    assert findings == lint(ir.from_proto(proto), target)  # type: ignore[arg-type]
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    order = [(SEVERITIES.index(f.severity), f.rule) for f in findings]
    assert order == sorted(order) and {f.rule for f in findings} <= {r.id for r in RULES if target in r.targets}
    assert all("\n" not in f.message for f in findings)


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_inspect_describes_any_graph(proto: onnx.ModelProto) -> None:
    """As JSON, on whatever onnx_ir reads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(proto.SerializeToString())
        description = describe(path)
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert sum(description["lint"]["counts"].values()) == len(description["lint"]["findings"])


@pytest.mark.parametrize("version", [(8, 6), (10, 3), (10, 7), (11, 4)])
def test_a_plugin_beside_its_function_is_a_matter_of_the_version(version: tuple[int, int]) -> None:
    broken = {f.rule for f in lint(ir.from_proto(EXAMPLES["TRT606"].breaks), "tensorrt", version=version)}
    assert ("TRT606" in broken) == (version < (10, 7))
