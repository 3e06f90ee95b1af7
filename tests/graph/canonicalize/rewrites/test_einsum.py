"""Einsum as the products it is, equal in ONNX Runtime (`canonical` compares)."""

from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.graph.sites import find_sites
from tests.support.graphs.canonical_cases import canonical, ops, parse

random = np.random.default_rng(0)
W, HEADS = (random.standard_normal(shape).astype(np.float32) for shape in ((24, 16), (24, 4, 5)))


@pytest.mark.parametrize(
    ("equation", "weight", "expected"),
    [
        ("bchw,wd->bchd", W[:8], ["MatMul"]),
        ("bchw,wd", W[:8], ["MatMul", "Transpose"]),
        ("...w,wd->...d", W[:8], ["MatMul"]),
        ("bchw,dw->bchd", W[:8].T.copy(), ["Transpose", "MatMul"]),
        ("wd,bchw->bchd", W[:8], ["MatMul"]),
        ("bchw,wd->bdch", W[:8], ["MatMul", "Transpose"]),
        ("bchw,cwd->bhd", HEADS.reshape(3, 8, 20), ["Transpose", "Reshape", "Reshape", "MatMul"]),
        ("bchw,wnd->bchnd", HEADS[:8], ["Reshape", "MatMul", "Reshape"]),
    ],
)
def test_a_product_with_a_constant_is_a_linear(equation: str, weight: np.ndarray, expected: list[str]) -> None:
    operands = "w, x" if equation.startswith("wd") else "x, w"
    graph = canonical(parse(f'y = Einsum <equation = "{equation}"> ({operands})', w=weight))
    assert "Einsum" not in ops(graph) and ops(graph).count("MatMul") == 1
    assert len(ops(graph)) <= len(expected)


def test_it_is_a_site() -> None:
    graph = canonical(parse('y = Einsum <equation = "bchw,wd->bchd"> (x, w)', shape="N,3,8,24", w=W))
    (site,) = find_sites(graph)
    assert (site.kind, site.params) == ("linear", W.size)


@pytest.mark.parametrize(
    "equation",
    ["bchw,bchv->bcwv", "bchw,bcvw->bchv", "bchw,bcwv->bchv", "bchw,bdhw->bcd", "bnhw,bmhw->bnm", "bchw,bchv->bvcw"],
)
def test_a_product_of_two_tensors_is_a_matrix_product(equation: str) -> None:
    graph = canonical(parse(f'z = Relu(x) y = Einsum <equation = "{equation}"> (x, z)'))
    assert "Einsum" not in ops(graph) and "MatMul" in ops(graph)


@pytest.mark.parametrize("equation", ["bchw->bwch", "...ij->...ji", "i...j->...ij"])
def test_a_permutation_is_a_transpose(equation: str) -> None:
    batch = "i" in equation[:1]
    model = parse(f'y = Einsum <equation = "{equation}"> (x)', shape="2,3,8,8" if batch else "N,3,8,8")
    assert ops(canonical(model, batches=(2,) if batch else (1, 3))) == ["Transpose"]


@pytest.mark.parametrize("equation", ["bchw->bc", "bchh->bch", "bchw,bchw->bch", "bchw,w->bchw"])
def test_what_is_no_product_stays(equation: str) -> None:
    second = ", w" if "," in equation and equation.endswith("bchw") else ", x" if "," in equation else ""
    graph = canonical(parse(f'y = Einsum <equation = "{equation}"> (x{second})', w=W[0, :8].copy()))
    assert ops(graph) == ["Einsum"]
