import numpy as np

from tests.support.graphs.canonical_cases import canonical, constant_of, ops, parse

RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_gemm_becomes_matmul_and_add_with_its_factors_folded() -> None:
    w, b = weight(5, 192), weight(5)
    graph = canonical(
        parse(
            "f = Flatten(x) y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (f, head_weight, head_bias)",
            head_weight=w,
            head_bias=b,
        )
    )
    assert ops(graph) == ["Reshape", "MatMul", "Add"]
    assert np.allclose(constant_of(graph, "head_weight"), 0.5 * w.T)
    assert np.allclose(constant_of(graph, "head_bias"), 2 * b)
    assert [d for d in graph.outputs[0].shape][1] == 5


def test_the_bias_of_a_gemm_may_have_any_shape_that_broadcasts() -> None:
    for shape in ((1, 5), (1,), ()):
        body = "f = Flatten(x) y = Gemm <beta = 2.0> (f, w, b)"
        graph = canonical(parse(body, w=weight(192, 5), b=np.asarray(weight(*shape))))
        assert ops(graph) == ["Reshape", "MatMul", "Add"]
        assert list(list(graph.nodes())[-1].inputs[1].shape) == [5]


def test_a_bias_of_a_gemm_that_is_data_keeps_its_factor() -> None:
    body = "f = Flatten(x) m = ReduceMean <keepdims = 1> (f, a) y = Gemm <beta = 2.0> (f, w, m)"
    graph = canonical(parse(body, w=weight(192, 5), a=np.array([1])))  # which is compared with the original
    assert ops(graph) == ["Reshape", "ReduceMean", "MatMul", "Mul", "Add"]


def test_gemm_with_transposed_input() -> None:
    body = "s = Constant<value = int64[2] {3, 64}>() r = Reshape(x, s) y = Gemm <transA = 1> (r, w)"
    assert ops(canonical(parse(body, shape="1,3,8,8", w=weight(3, 4)), batches=(1,))) == [
        "Reshape",
        "Transpose",
        "MatMul",
    ]


def test_bias_is_second_and_one_dimensional() -> None:
    graph = canonical(parse("m = MatMul(x, w) y = Add(b, m)", w=weight(8, 4), b=weight(1, 1, 4)))
    add = list(graph.nodes())[-1]
    assert add.inputs[0].producer().op_type == "MatMul"
    assert list(add.inputs[1].shape) == [4]


def test_a_transposed_constant_weight_is_folded_and_keeps_its_name() -> None:
    w = weight(4, 8)
    graph = canonical(parse("t = Transpose <perm = [1, 0]> (fc_weight) y = MatMul(x, t)", fc_weight=w))
    assert ops(graph) == ["MatMul"]
    assert np.array_equal(constant_of(graph, "fc_weight"), w.T)


def test_a_shared_weight_is_given_to_each_reader() -> None:
    graph = canonical(parse("a = MatMul(x, w) y = MatMul(a, w)", w=weight(8, 8)))
    first, second = graph.nodes()
    assert first.inputs[1] is not second.inputs[1]
