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


@pytest.mark.parametrize("opset", [6, 26])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(InputError, match="opset"):
        canonical(parse("y = Relu(x)", opset=opset))


def vector(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


OLD: list[tuple[str, tuple[int, ...], dict[str, np.ndarray]]] = [
    ("y = Softmax <axis = 1> (x)", (7, 11, 12), {}),
    ("y = Softmax <axis = 3> (x)", (7, 12, 13, 21), {}),
    ("y = LogSoftmax <axis = 1> (x)", (7, 12), {}),
    ("y = Hardmax <axis = 1> (x)", (7, 12), {}),
    ("a = ReduceMean <axes = [1]> (x) y = Squeeze <axes = [1]> (a)", (7, 12), {}),
    ("y = ReduceSum <axes = [2], keepdims = 0> (x)", (7, 11, 12), {}),
    ("y = ReduceL2 <axes = [2]> (x)", (7, 13, 17), {}),
    ("y = Clip <min = -0.5, max = 0.5> (x)", (7, 10), {}),
    ("y = Clip <max = 0.5> (x)", (7, 10), {}),
    ("y = Clip(x, low)", (11, 12, 25), {"low": np.float32(-0.5)}),
    ('y = Pad <pads = [0, 0, 1, 1, 0, 0, 2, 1], mode = "reflect"> (x)', (7, 10), {}),
    ("y = Pad <pads = [0, 0, 1, 1, 0, 0, 2, 1], value = 0.5> (x)", (7, 10), {}),
    ("a = Dropout <ratio = 0.5> (x) y = Relu(a)", (7, 11), {}),
    ("y = BatchNormalization <epsilon = 0.001> (x, s, s, m, s)", (7, 8, 9, 13, 14, 15), {
        "s": vector(1, 2, 3), "m": vector(0, 1, -1),
    }),
    ('y = Upsample <mode = "nearest", scales = [1.0, 1.0, 2.0, 1.5]> (x)', (7, 8), {}),
    ('y = Upsample <mode = "linear", scales = [1.0, 1.0, 2.0, 2.0]> (x)', (7, 8), {}),
    ('y = Upsample <mode = "linear"> (x, s)', (9,), {"s": vector(1, 1, 2, 3)}),
    *((f'y = Resize <mode = "{mode}"> (x, s)', (10,), {"s": vector(1, 1, *by)}) for mode in ("nearest", "linear")
      for by in ((2, 1.5), (0.6, 0.5))),
    ('y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, r, s)', (11, 12, 13, 19), {
        "r": vector(), "s": vector(1, 1, 2, 1.5),
    }),
    ('y = Resize <nearest_mode = "floor", coordinate_transformation_mode = "tf_half_pixel_for_nn"> (x,r,s)', (11, 12), {
        "r": vector(), "s": vector(1, 1, 2, 1.5),
    }),
    ("y = Slice <axes = [2], starts = [1], ends = [9]> (x)", (7, 9), {}),
    ("a, y = Split <axis = 3, split = [2, 6]> (x)", (7, 12), {}),
    ("a, b = Split <axis = 3> (x) y = Add(a, b)", (7, 13, 17), {}),
    ("y, i = TopK <axis = 3, k = 3> (x)", (7, 9), {}),
    ("y, i = TopK <axis = 3> (x, k)", (10, 11, 21), {"k": ints(3)}),
    ("t = Scatter <axis = 0> (w, i, u) y = MatMul(x, t)", (9, 10), {
        "w": W, "i": ints(0, 1).reshape(1, 2), "u": vector(1, 2).reshape(1, 2),
    }),
    ("y = GroupNormalization <num_groups = 1> (x, s, s)", (18, 20), {"s": vector(2)}),
    ("y = GroupNormalization <num_groups = 3> (x, s, s)", (18, 21, 25), {"s": vector(1, 2, 3)}),
    ("y = MeanVarianceNormalization(x)", (9, 13, 21), {}),
    ("y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x)", (7, 10, 19, 25), {}),
    ("y = PRelu(x, s)", (7, 9, 25), {"s": vector(0.25)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "opset", "weights"), [(body, opset, weights) for body, opsets, weights in OLD for opset in opsets]
)
def test_an_operator_means_what_it_meant_in_its_opset(body: str, opset: int, weights: dict[str, np.ndarray]) -> None:
    canonical(parse(body, opset=opset, **weights))


@pytest.mark.parametrize("opset", [7, 12])
@pytest.mark.parametrize("axis", [3, -1])
def test_the_softmax_of_an_attention_stays_one_operator(opset: int, axis: int) -> None:
    if axis >= 0 or opset > 10:  # opset 11 let an axis count from the end
        assert ops(canonical(parse(f"y = Softmax <axis = {axis}> (x)", opset=opset))) == ["Softmax"]


@pytest.mark.parametrize(("opset", "mode"), [(16, "bilinear"), (19, "bicubic"), (20, "linear"), (25, "cubic")])
def test_modes_of_grid_sample(opset: int, mode: str) -> None:
    grid = np.tanh(np.random.default_rng(1).standard_normal((2, 4, 5, 2))).astype(np.float32)
    body = f'y = GridSample <mode = "{mode}", align_corners = 1> (x, grid)'
    graph = canonical(parse(body, opset=opset, shape="2,3,8,8", grid=grid), batches=(2,))
    assert next(graph.nodes()).attributes["mode"].as_string() in ("linear", "cubic")


def test_a_resize_that_no_opset_explains_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="enlarges one axis and shrinks another"):
        canonical(parse('y = Resize <mode = "nearest"> (x, s)', opset=10, s=vector(1, 1, 2, 0.5)))


def test_what_the_converter_cannot_do_is_one_line() -> None:
    loop = "y = ScatterElements <axis = 0> (x, x, x) z = Upsample(x)"
    with pytest.raises(InputError) as error:
        canonical(parse(loop, opset=16))
    assert "\n" not in str(error.value)


def test_all_operators_that_cannot_be_compiled_are_named_at_once() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 17, "acme" : 1]> g (float[N,3,8,8] x) => (float[N,3,8,8] y, int64[K,L] k) '
        "{ [a] p = acme.Warp(x) [b] q = acme.Warp(p) [c] k = NonZero(q) [d] y = Relu(q) [e] dead = Unique(x) }"
    )
    with pytest.raises(InputError) as error:
        canonicalize(ir.from_proto(model), "test")
    message = str(error.value)
    assert "acme.Warp (2 nodes, the first 'a')" in message and "NonZero (node 'c')" in message
    assert "cut the model off" in message and "Unique" not in message and "Relu" not in message
    assert error.value.exit_code == 2


def test_an_operator_that_is_refused_on_pixels_may_make_constants() -> None:
    body = "k = NonZero(w) n = Cast <to = 1> (k) s = ReduceSum <keepdims = 0> (n) y = Mul(x, s)"
    assert ops(canonical(parse(body, opset=18, w=W))) == ["Mul"]


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


def test_a_limit_that_is_none_is_not_an_error() -> None:
    canonical(parse("y = Min(x, w)", w=vector(np.inf)))
    with pytest.raises(NonFiniteError, match="weight 'w' holds NaN"):
        canonical(parse("y = Min(x, w)", w=vector(np.nan)))


def test_a_mask_of_minus_infinity_is_not_an_error() -> None:
    mask = np.where(np.tri(8) > 0, 0, -np.inf).astype(np.float32)
    for each in (mask, mask + W):
        assert ops(canonical(parse("a = Add(x, mask) y = Softmax <axis = -1> (a)", mask=each))) == ["Add", "Softmax"]
    with pytest.raises(NonFiniteError, match="infinity"):
        canonical(parse("a = MatMul(x, mask) y = Softmax <axis = -1> (a)", mask=mask + W))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("float[N,3,H,W] x", "--input-shape x=3xNxN"),
        ("float[N,3,8,8] x, int64[N,L] ids", "--input-shape ids=N"),
        ("float[N,0,8,8] x", "holds nothing"),
        ("float[N,8,8,3] x", "channels come last"),
    ],
)
def test_inputs_of_no_known_size(inputs: str, message: str) -> None:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 21]> g ({inputs}) => (float[] y) {{ y = Identity(x) }}'
    )
    with pytest.raises(InputError, match=message):
        canonicalize(ir.from_proto(model), "test")
