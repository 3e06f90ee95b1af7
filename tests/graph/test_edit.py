from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from qvit_deploy.graph.edit import add_constant, add_index, add_ints, shared_constant
from tests.support.graphs.canonical_cases import parse


def graph_with(**constants: np.ndarray) -> ir.Graph:
    return ir.from_proto(parse("index_3 = Relu(x) y = Identity(index_3)", **constants)).graph


@pytest.mark.parametrize(
    "theirs",
    [np.array([1, 3]), np.array([1, 2], np.int32), np.array([[1, 2]]), np.array([1.0, 2.0], np.float32)],
    ids=["value", "type", "shape", "float"],
)
def test_a_constant_of_our_name_with_something_else_in_it_is_left_alone(theirs: np.ndarray) -> None:
    graph = graph_with(ints_1_2=theirs)
    ours = add_ints(graph, [1, 2])
    assert ours.name == "ints_1_2.1" and ours.const_value is not None
    np.testing.assert_array_equal(ours.const_value.numpy(), [1, 2])
    assert add_ints(graph, [1, 2]) is ours


def test_a_constant_that_holds_the_same_is_shared() -> None:
    graph = graph_with(ints_1_2=np.array([1, 2]))
    assert add_ints(graph, [1, 2]) is graph.initializers["ints_1_2"]


def test_the_name_of_a_result_is_not_free() -> None:
    graph = graph_with()
    assert add_index(graph, 3).name == "index_3.1" and add_constant(graph, "x", np.zeros(2)).name == "x.1"


def test_nan_is_equal_to_itself() -> None:
    graph, array = graph_with(), np.array([np.nan, 1], np.float32)
    assert shared_constant(graph, "c", array) is shared_constant(graph, "c", array)
