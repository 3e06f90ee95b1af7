from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.graph.canonicalize.rewrites.order import sort_nodes
from tests.support.graphs.canonical_cases import canonical, ops, parse


def test_nodes_out_of_order_are_sorted() -> None:
    model = parse("a = Sigmoid(x) b = Relu(a) y = Neg(b)")
    model.graph.node.sort(key=lambda node: node.op_type)
    ordered = ir.from_proto(model)
    sort_nodes(ordered)
    assert [node.op_type for node in ordered.graph] == ["Sigmoid", "Relu", "Neg"]
    assert ops(canonical(parse("a = Sigmoid(x) b = Relu(a) y = Neg(b)"))) == ["Sigmoid", "Relu", "Neg"]


def test_nodes_in_order_stay_where_they_are() -> None:
    model = ir.from_proto(parse("b = Relu(x) a = Sigmoid(x) y = Add(a, b)"))
    sort_nodes(model)
    assert [node.op_type for node in model.graph] == ["Relu", "Sigmoid", "Add"]


def test_nodes_in_a_branch_are_sorted() -> None:
    body = (
        "c = Constant<value_int = 1>() t = Cast<to=9>(c) y = If(t) <"
        "then_branch = a () => (float[N] u) { u = Neg(v) v = Relu(x) }, "
        "else_branch = b () => (float[N] w) { w = Relu(x) }>"
    )
    model = ir.from_proto(parse(body))
    sort_nodes(model)
    branch = next(node for node in model.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    assert [node.op_type for node in branch] == ["Relu", "Neg"]


def test_what_a_branch_reads_comes_before_its_if() -> None:
    body = (
        "c = Constant<value_int = 1>() t = Cast<to=9>(c) y = If(t) <"
        "then_branch = a () => (float[N] u) { u = Neg(v) }, else_branch = b () => (float[N] w) { w = Relu(x) }> "
        "v = Sigmoid(x)"
    )
    assert ops(canonical(parse(body))) == ["Sigmoid", "Neg"]


def test_a_cycle_is_refused() -> None:
    model = parse("a = Add(x, b) b = Relu(a) y = Neg(b)")
    assert isinstance(model, onnx.ModelProto)
    with pytest.raises(InputError, match="cycle"):
        sort_nodes(ir.from_proto(model))
