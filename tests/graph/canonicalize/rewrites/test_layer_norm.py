import numpy as np
import pytest

from tests.support.graphs.canonical_cases import canonical, constant_of, ops, parse

AXES = "<axes = [-1]>"
STATS = f"m = ReduceMean {AXES} (x) d = Sub(x, m)"
TAIL = "v = ReduceMean <axes = [-1]> (s) a = Add(v, eps) r = Sqrt(a)"
CONSTANTS = "two = Constant<value = float {2.0}>() eps = Constant<value = float {0.001}>()"
FORMS = [
    f"{CONSTANTS} {STATS} s = Pow(d, two) {TAIL} y = Div(d, r)",
    f"{CONSTANTS} {STATS} s = Mul(d, d) {TAIL} i = Reciprocal(r) y = Mul(i, d)",
    f"{CONSTANTS} one = Constant<value = float {{1.0}}>() {STATS} d2 = Sub(x, m) s = Pow(d2, two) {TAIL}"
    " i = Div(one, r) y = Mul(d, i)",
]


@pytest.mark.parametrize("form", FORMS)
def test_without_affine(form: str) -> None:
    graph = canonical(parse(form, opset=13))
    assert ops(graph) == ["LayerNormalization"]
    node = next(graph.nodes())
    assert node.attributes["axis"].as_int() == -1
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-3)
    assert np.array_equal(constant_of(graph, str(node.inputs[1].name)), np.ones(8, np.float32))
    assert np.array_equal(constant_of(graph, str(node.inputs[2].name)), np.zeros(8, np.float32))


def test_with_affine() -> None:
    body = FORMS[0].replace("y = Div(d, r)", "n = Div(d, r) g = Mul(n, w) y = Add(g, b)")
    w, b = np.arange(1, 9, dtype=np.float32), np.arange(8, dtype=np.float32)
    graph = canonical(parse(body, opset=13, w=w, b=b))
    assert ops(graph) == ["LayerNormalization"]
    node = next(graph.nodes())
    assert np.array_equal(constant_of(graph, str(node.inputs[1].name)), w)
    assert np.array_equal(constant_of(graph, str(node.inputs[2].name)), b)


def test_over_channels_first_is_not_a_token_layer_norm() -> None:
    body = FORMS[0].replace("[-1]", "[1]")
    assert "LayerNormalization" not in ops(canonical(parse(body, opset=13)))


def test_written_with_an_explicit_last_axis_and_no_bias() -> None:
    graph = canonical(parse("y = LayerNormalization <axis = 3> (x, w)", w=np.ones(8, np.float32)))
    node = next(graph.nodes())
    assert node.attributes["axis"].as_int() == -1
    assert len(node.inputs) == 3


def test_rms_norm_stays_as_it_comes() -> None:
    body = f"{CONSTANTS} s = Pow(x, two) {TAIL} y = Div(x, r)"
    assert "LayerNormalization" not in ops(canonical(parse(body, opset=13)))
