import numpy as np
import pytest

from tests.support.graphs.canonical_cases import canonical, ops, parse

ERF = [
    "c = Constant<value = float {1.4142135}>() h = Constant<value = float {0.5}>()"
    " o = Constant<value = float {1.0}>()"
    " d = Div(x, c) e = Erf(d) p = Add(e, o) m = Mul(x, p) y = Mul(m, h)",
    "c = Constant<value = float {0.70710678}>() h = Constant<value = float {0.5}>()"
    " o = Constant<value = float {1.0}>()"
    " d = Mul(c, x) e = Erf(d) p = Add(o, e) k = Mul(h, x) y = Mul(p, k)",
    "c = Constant<value = float {1.4142135}>() t = Constant<value = float {2.0}>()"
    " o = Constant<value = float {1.0}>()"
    " d = Div(x, c) e = Erf(d) p = Add(e, o) k = Div(p, t) y = Mul(x, k)",
]
TANH = [
    "a = Constant<value = float {0.044715}>() s = Constant<value = float {0.7978845608}>()"
    " h = Constant<value = float {0.5}>() o = Constant<value = float {1.0}>() n = Constant<value = float {3.0}>()"
    " p3 = Pow(x, n) q = Mul(p3, a) r = Add(x, q) u = Mul(r, s) t = Tanh(u)"
    " v = Add(t, o) w = Mul(x, h) y = Mul(w, v)",
    "a = Constant<value = float {0.044715}>() s = Constant<value = float {0.7978845608}>()"
    " h = Constant<value = float {0.5}>() o = Constant<value = float {1.0}>()"
    " xx = Mul(x, x) q = Mul(xx, a) r = Add(o, q) sx = Mul(x, s) u = Mul(sx, r) t = Tanh(u) v = Add(o, t)"
    " w = Mul(h, v) y = Mul(w, x)",
]


@pytest.mark.parametrize("body", ERF)
def test_erf_form_in_any_order(body: str) -> None:
    graph = canonical(parse(body))
    assert ops(graph) == ["Gelu"]
    assert next(graph.nodes()).attributes["approximate"].as_string() == "none"


@pytest.mark.parametrize("body", TANH)
def test_tanh_form_in_any_order(body: str) -> None:
    graph = canonical(parse(body))
    assert ops(graph) == ["Gelu"]
    assert next(graph.nodes()).attributes["approximate"].as_string() == "tanh"


def test_something_that_only_resembles_a_gelu_stays() -> None:
    wrong = ERF[0].replace("0.5", "0.6")
    assert "Gelu" not in ops(canonical(parse(wrong)))


def test_silu_stays_decomposed() -> None:
    assert ops(canonical(parse("s = Sigmoid(x) y = Mul(x, s)"))) == ["Sigmoid", "Mul"]


def test_gelu_of_a_sum_finds_the_sum_as_its_argument() -> None:
    body = ERF[0].replace("d = Div(x, c)", "z = Add(x, b) d = Div(z, c)").replace("Mul(x, p)", "Mul(z, p)")
    assert ops(canonical(parse(body, b=np.ones((3, 8, 8), np.float32)))) == ["Add", "Gelu"]
