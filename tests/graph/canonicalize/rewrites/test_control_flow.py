import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.errors import UnsupportedOpError
from qvit_deploy.graph.canonicalize import canonicalize
from tests.support.graphs.canonical_cases import canonical, ops, parse

THEN = "then_g () => (float[] t) { t = Relu(x) }"
ELSE = "else_g () => (float[] e) { e = Neg(x) }"


def branching(condition: str) -> onnx.ModelProto:
    model = parse(f"{condition} r = If <then_branch = {THEN}, else_branch = {ELSE}> (c) y = Sigmoid(r)")
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                attribute.g.output[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize(("channels", "expected"), [(3, "Relu"), (4, "Neg")])
def test_a_condition_on_the_shape_is_decided(channels: int, expected: str) -> None:
    condition = (
        f"n = Constant<value = int64 {{{channels}}}>() i = Constant<value = int64 {{1}}>()"
        " s = Shape(x) d = Gather(s, i) c = Equal(d, n)"
    )
    assert ops(canonical(branching(condition))) == [expected, "Sigmoid"]


def test_a_constant_condition_is_decided() -> None:
    model = branching("")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "c"))
    assert ops(canonical(model)) == ["Relu", "Sigmoid"]


def test_a_condition_on_the_image_is_refused() -> None:
    condition = "z = Constant<value = float {0.0}>() m = ReduceMean <keepdims = 0> (x) c = Greater(m, z)"
    with pytest.raises(UnsupportedOpError, match="depends on the image"):
        canonical(branching(condition))


def test_the_half_precision_of_a_branch_becomes_single() -> None:
    two = onnx.numpy_helper.from_array(np.float16(2), "two")
    then = onnx.helper.make_graph(
        [onnx.helper.make_node("Mul", ["h", "two"], ["t"])], "then", [], [onnx.ValueInfoProto(name="t")], [two]
    )
    model = parse("h = Cast<to = 10>(x) r = Identity(h) y = Cast<to = 1>(r)", c=np.array(True))
    node = model.graph.node[1]
    node.CopyFrom(onnx.helper.make_node("If", ["c"], ["r"], then_branch=then, else_branch=then))
    graph = canonicalize(ir.from_proto(model), "test")
    assert ops(graph) == ["Mul"] and all(v.dtype == ir.DataType.FLOAT for v in graph.initializers.values())
