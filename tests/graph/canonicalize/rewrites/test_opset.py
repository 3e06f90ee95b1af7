import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.errors import InputError, NonFiniteError, UnsupportedOpError
from qvit_deploy.graph.canonicalize import canonicalize
from tests.support.graphs.canonical_cases import canonical, ops, parse

W = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)


@pytest.mark.parametrize("opset", range(13, 26))
def test_every_supported_opset(opset: int) -> None:
    reduce = "r = ReduceMean <axes = [2]> (m)" if opset < 18 else "r = ReduceMean(m, a)"
    body = f"a = Constant<value = int64[1] {{2}}>() m = MatMul(x, w) {reduce} y = Softmax <axis = -1> (r)"
    graph = canonical(parse(body, opset=opset, w=W))
    assert graph.model.opset_imports == {"": 21}
    assert ops(graph) == ["MatMul", "ReduceMean", "Softmax"]


@pytest.mark.parametrize("opset", [12, 26])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(InputError, match="opset"):
        canonical(parse("y = Relu(x)", opset=opset))


def test_young_operators_are_expanded() -> None:
    body = "q = MatMul(x, w) a = Attention(q, x, x) y = Swish(a)"
    graph = canonical(parse(body, opset=24, w=W))
    assert sorted(ops(graph)) == sorted(["MatMul"] * 3 + ["Transpose", "Mul", "Softmax", "Sigmoid", "Mul"])


def test_rms_normalization_is_expanded() -> None:
    graph = canonical(parse("y = RMSNormalization(x, w)", opset=23, w=np.ones(8, np.float32) * 2))
    assert "RMSNormalization" not in ops(graph)


def test_local_functions_are_inlined() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 21, "local" : 1]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) '
        "{ y = local.twice(x) } "
        '<domain: "local", opset_import: ["" : 21]> twice (a) => (b) { b = Add(a, a) }'
    )
    assert ops(canonical(model)) == ["Add"]


def test_a_custom_operator_is_refused_by_name() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 21, "com.microsoft" : 1]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) '
        "{ y = com.microsoft.FusedGelu(x) }"
    )
    with pytest.raises(UnsupportedOpError, match=r"com\.microsoft\.FusedGelu"):
        canonicalize(ir.from_proto(model), "test")


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE])
def test_other_float_types_become_float32(dtype: int) -> None:
    name = {10: "float16", 16: "bfloat16", 11: "double"}[dtype]
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 21]> g ({name}[N,3,8,8] x) => ({name}[N,3,8,8] y) '
        "{ f = Cast <to = 1> (x) m = MatMul(f, w32) y = Cast <to = %d> (m) }" % dtype
    )
    weight = onnx.helper.make_tensor("w", dtype, [8, 8], W.reshape(-1).tolist())
    model.graph.initializer.append(weight)
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["w"], ["w32"], to=1))
    graph = canonicalize(ir.from_proto(model), "test")
    assert ops(graph) == ["MatMul"]
    assert graph.inputs[0].dtype == ir.DataType.FLOAT
    assert all(v.dtype == ir.DataType.FLOAT for v in graph.initializers.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(bad: float) -> None:
    broken = W.copy()
    broken[2, 3] = bad
    with pytest.raises(NonFiniteError, match="blocks_weight"):
        canonical(parse("y = MatMul(x, blocks_weight)", blocks_weight=broken))


def test_a_mask_of_minus_infinity_is_not_an_error() -> None:
    mask = np.where(np.tri(8) > 0, 0, -np.inf).astype(np.float32)
    assert ops(canonical(parse("a = Add(x, mask) y = Softmax <axis = -1> (a)", mask=mask))) == ["Add", "Softmax"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("float[N,3,8,8] x, float[N,3] z", "one image input"),
        ("float[N,3] x", "four dimensions"),
        ("float[N,3,H,W] x", "fixed channels"),
        ("uint8[N,3,8,8] x", "float image"),
        ("float[N,8,8,3] x", "channels come last"),
    ],
)
def test_inputs_that_are_not_an_image(inputs: str, message: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 21]> g ({inputs}) => (float[] y) {{ y = Identity(x) }}'
    )
    with pytest.raises(InputError, match=message):
        canonicalize(ir.from_proto(model), "test")
