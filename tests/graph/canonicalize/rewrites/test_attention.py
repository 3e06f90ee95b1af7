import numpy as np
import pytest

from tests.support.graphs.canonical_cases import canonical, constant_of, ops, parse

W = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
QKV = (
    "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
    " c = Constant<value = float {0.5}>() d = Constant<value = float {4.0}>()"
)
TAIL = "p = Softmax <axis = 3> (z) y = MatMul(p, v)"
KT = "kt = Transpose <perm = [0, 1, 3, 2]> (k)"
FORMS = {
    "on q": (f"{QKV} {KT} qs = Mul(q, c) z = MatMul(qs, kt) {TAIL}", 0.5),
    "on q, constant first": (f"{QKV} {KT} qs = Mul(c, q) z = MatMul(qs, kt) {TAIL}", 0.5),
    "on both": (f"{QKV} {KT} qs = Mul(q, c) ks = Mul(kt, c) z = MatMul(qs, ks) {TAIL}", 0.25),
    "on k, before its transpose": (
        f"{QKV} ks = Mul(k, c) kt = Transpose <perm = [0, 1, 3, 2]> (ks) z = MatMul(q, kt) {TAIL}",
        0.5,
    ),
    "on the scores": (f"{QKV} {KT} s = MatMul(q, kt) z = Div(s, d) {TAIL}", 0.25),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_scale_is_one_mul_of_q(form: str) -> None:
    body, scale = FORMS[form]
    graph = canonical(parse(body, wq=W, wk=W + 1, wv=W - 1))
    assert sorted(ops(graph)) == sorted(["MatMul"] * 5 + ["Transpose", "Mul", "Softmax"])
    mul = next(node for node in graph.nodes() if node.op_type == "Mul")
    assert mul.inputs[0].producer().op_type == "MatMul"
    assert constant_of(graph, str(mul.inputs[1].name)) == pytest.approx(scale)
    softmax = next(node for node in graph.nodes() if node.op_type == "Softmax")
    assert softmax.attributes["axis"].as_int() == -1


def test_a_scale_per_head_is_not_moved() -> None:
    body = f"{QKV} {KT} s = MatMul(q, kt) z = Mul(s, h) {TAIL}"
    heads = np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1)
    graph = canonical(parse(body, wq=W, wk=W + 1, wv=W - 1, h=heads))
    mul = next(node for node in graph.nodes() if node.op_type == "Mul")
    assert mul.outputs[0].uses()[0].node.op_type == "Softmax"


def test_scores_that_are_also_read_unscaled_keep_their_scale() -> None:
    body = f"{QKV} {KT} s = MatMul(q, kt) t = Div(s, d) p = Softmax <axis = -1> (t)"
    body += " r = MatMul(p, v) u = Relu(s) y = MatMul(u, r)"
    types = ops(canonical(parse(body, wq=W, wk=W + 1, wv=W - 1)))
    assert "Div" in types
    assert "Mul" not in types


def test_probabilities_are_never_scaled() -> None:
    body = f"{QKV} {KT} z = MatMul(q, kt) p = Softmax <axis = 3> (z) r = MatMul(p, v) y = Mul(r, c)"
    graph = canonical(parse(body, wq=W, wk=W + 1, wv=W - 1))
    assert ops(graph)[-3:] == ["Softmax", "MatMul", "Mul"]
