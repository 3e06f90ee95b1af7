"""Shapes: what depends on the batch is found by running at two sizes."""

import numpy as np
import pytest

from qvit_deploy.errors import InputError, UnsupportedOpError
from tests.support.graphs.canonical_cases import canonical, constant_of, ops, parse


def test_shape_arithmetic_becomes_a_constant_reshape() -> None:
    body = (
        "s = Shape(x) i = Constant<value = int64 {0}>() b = Gather(s, i) a = Constant<value = int64[1] {0}>()"
        " u = Unsqueeze(b, a) k = Constant<value = int64[2] {3, 64}>() t = Concat <axis = 0> (u, k) y = Reshape(x, t)"
    )
    graph = canonical(parse(body))
    assert ops(graph) == ["Reshape"]
    target = next(graph.nodes()).inputs[1]
    assert constant_of(graph, str(target.name)).tolist() == [-1, 3, 64]


def test_a_class_token_is_expanded_to_the_batch() -> None:
    body = (
        "f = Constant<value = int64[3] {0, 3, -1}>() r = Reshape(x, f)"
        " s = Shape <start = 0, end = 1> (r) k = Constant<value = int64[2] {1, 64}>()"
        " t = Concat <axis = 0> (s, k) e = Expand(cls_token, t) y = Concat <axis = 1> (e, r)"
    )
    graph = canonical(parse(body, cls_token=np.ones((1, 1, 64), np.float32)))
    assert ops(graph) == ["Shape", "Concat", "Expand", "Reshape", "Concat"]
    assert graph.static_batch is None
    assert "cls_token" in graph.initializers


def test_windows_are_a_multiple_of_the_batch() -> None:
    body = (
        "a = Constant<value = int64[6] {-1, 3, 2, 4, 2, 4}>() r = Reshape(x, a)"
        " t = Transpose <perm = [0, 2, 4, 1, 3, 5]> (r) b = Constant<value = int64[4] {-1, 3, 4, 4}>() "
        "y = Reshape(t, b)"
    )
    graph = canonical(parse(body))
    assert str(graph.outputs[0].shape[0]) == "4*batch"


def test_a_file_with_a_fixed_batch_keeps_it() -> None:
    body = "s = Shape(x) y = Reshape(x, s)"
    graph = canonical(
        parse(body.replace("y = Reshape(x, s)", "z = Reshape(x, s) y = Relu(z)"), shape="2,3,8,8"), batches=(2,)
    )
    assert graph.static_batch == 2
    assert ops(graph) == ["Relu"]


def test_a_batch_written_into_the_graph_makes_it_static(caplog: pytest.LogCaptureFixture) -> None:
    body = "s = Constant<value = int64[2] {1, 192}>() r = Reshape(x, s) y = Relu(r)"
    assert canonical(parse(body), batches=(1,)).static_batch == 1
    assert [record.message for record in caplog.records] == [
        "the model declares a batch of any size, and that of its export is written into it (or an output counts no "
        "images): the files take 1 image at a time"
    ]


def test_a_batch_that_is_kept_is_not_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    body = "s = Constant<value = int64[2] {-1, 192}>() r = Reshape(x, s) y = Relu(r)"
    assert canonical(parse(body)).static_batch is None and not caplog.records
    assert canonical(parse(body, shape="2,3,8,8"), batches=(2,)).static_batch == 2 and not caplog.records


def test_a_constant_that_repeats_along_the_batch_is_expanded() -> None:
    body = (
        "s = Shape <start = 0, end = 1> (x) k = Constant<value = int64[3] {3, 8, 8}>()"
        " t = Concat <axis = 0> (s, k) c = ConstantOfShape <value = float[1] {2.0}> (t) y = Concat <axis = 1> (c, x)"
    )
    assert "Expand" in ops(canonical(parse(body)))


def test_an_expand_that_broadcasting_does_anyway_goes() -> None:
    body = "s = Shape(x) e = Expand(w, s) y = Add(x, e)"
    assert ops(canonical(parse(body, w=np.ones((1, 3, 8, 8), np.float32) * 2))) == ["Add"]


def test_a_constant_that_really_depends_on_the_batch_is_refused() -> None:
    body = (
        "i = Constant<value = int64 {0}>() o = Constant<value = int64 {1}>() s = Shape(x) b = Gather(s, i)"
        " r = Range(i, b, o) y = Gather(x, r)"
    )
    with pytest.raises(UnsupportedOpError, match="fixed batch size"):
        canonical(parse(body))


def test_a_model_onnx_runtime_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="cannot run"):
        canonical(parse("y = MatMul(x, w)", w=np.ones((7, 8), np.float32)))


QUERIES = np.random.default_rng(0).standard_normal((2, 1, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "merge",
    [
        "e = Expand(q, four) y0 = Reshape(e, merged)",  # batch x 2 blocks in turn
        "u = Transpose<perm = [1, 0, 2, 3]>(e4) y0 = Reshape(u, merged)",  # each of 2 as often as there are images
    ],
    ids=["in turn", "each"],
)
def test_a_constant_that_repeats_with_a_period_of_the_batch(merge: str) -> None:
    """The queries of a pooling head: [batch x heads, 1, depth], the same for every image."""
    body = (
        "s = Shape <start = 0, end = 1> (x) k = Constant<value = int64[3] {2, 1, 4}>() four = Concat <axis = 0> (s, k)"
        " e4 = Expand(q, four) merged = Constant<value = int64[3] {-1, 1, 4}>() "
        f"{merge} r = ReduceMean<keepdims = 1>(x, a) f = Constant<value = int64[3] {{-1, 1, 1}}>()"
        " d = Concat<axis = 0>(r, r) m = Reshape(d, f) y = Mul(y0, m)"
    )
    graph = canonical(parse(body, q=QUERIES, a=np.array([1, 2, 3])), batches=(1, 2, 3, 5))
    assert graph.static_batch is None
    assert np.array_equal(constant_of(graph, "q").reshape(-1), QUERIES.reshape(-1))
