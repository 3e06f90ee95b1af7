import numpy as np

from tests.support.graphs.canonical_cases import canonical, ops, parse

W = np.random.default_rng(0).standard_normal((6, 3, 4, 4)).astype(np.float32)
B = np.arange(6, dtype=np.float32)
CONV = "c = Conv <strides = [4, 4], kernel_shape = [4, 4]> (x, w, b)"
EMBEDDING = ["Reshape", "Transpose", "Reshape", "MatMul", "Add"]


def test_tokens_by_flatten_and_transpose() -> None:
    body = (
        f"s = Constant<value = int64[3] {{0, 0, -1}}>() {CONV} r = Reshape(c, s) y = Transpose <perm = [0, 2, 1]> (r)"
    )
    assert ops(canonical(parse(body, w=W, b=B))) == EMBEDDING


def test_tokens_by_channels_last() -> None:
    graph = canonical(parse(f"{CONV} y = Transpose <perm = [0, 2, 3, 1]> (c)", w=W, b=B))
    assert ops(graph) == [*EMBEDDING, "Reshape"]


def test_an_image_reader_gets_its_layout_back() -> None:
    graph = canonical(parse(f"{CONV} y = Relu(c)", w=W, b=B))
    assert ops(graph) == [*EMBEDDING, "Transpose", "Reshape", "Relu"]


def test_an_overlapping_convolution_stays() -> None:
    graph = canonical(parse("y = Conv <strides = [2, 2], kernel_shape = [4, 4]> (x, w, b)", w=W, b=B))
    assert ops(graph) == ["Conv"]


def test_the_weight_keeps_its_name() -> None:
    graph = canonical(parse(CONV.replace("c =", "y =").replace("w,", "proj_weight,"), proj_weight=W, b=B))
    assert list(graph.initializers["proj_weight"].shape) == [48, 6]
