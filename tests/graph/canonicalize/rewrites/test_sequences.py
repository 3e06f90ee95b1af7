from __future__ import annotations

import pytest

from qvit_deploy.errors import InputError
from tests.support.graphs.canonical_cases import canonical, ops, parse

PARTS = "z = Relu(x) s = SequenceConstruct(x, z) "


@pytest.mark.parametrize(
    ("axis", "new", "expected"),
    [(1, 0, ["Relu", "Concat"]), (-1, 0, ["Relu", "Concat"]), (2, 1, ["Relu", "Reshape", "Reshape", "Concat"])],
)
def test_a_list_put_together_is_a_concat(axis: int, new: int, expected: list[str]) -> None:
    body = f"{PARTS} y = ConcatFromSequence <axis = {axis}, new_axis = {new}> (s)"
    assert ops(canonical(parse(body))) == expected


def test_an_element_of_a_list_is_the_tensor() -> None:
    body = f"{PARTS} i = Constant <value = int64 {{1}}> () y = SequenceAt(s, i)"
    assert ops(canonical(parse(body))) == ["Relu"]


def test_the_pieces_of_a_tensor_put_together_again_are_refused() -> None:
    body = "n = Constant <value = int64 {2}> () s = SplitToSequence <axis = 3> (x, n) "
    with pytest.raises(InputError, match=r"2 kinds of operators.*SplitToSequence.*ConcatFromSequence"):
        canonical(parse(body + "y = ConcatFromSequence <axis = 2> (s)"))


def test_a_list_that_a_loop_fills_is_its_tensors() -> None:
    body = (
        "z = Relu(x) e = SequenceEmpty() a = SequenceInsert(e, x) b = SequenceInsert(a, z) "
        "p = Constant <value = int64 {0}> () c = SequenceInsert(b, z, p) y = ConcatFromSequence <axis = 1> (c)"
    )
    graph = canonical(parse(body))
    assert ops(graph) == ["Relu", "Concat"]
    assert list(graph.outputs[0].shape)[1] == 9


@pytest.mark.parametrize(("split", "index"), [("int64[2] {3, 5}", -1), ("int64[3] {1, 2, 5}", -3), ("int64 {1}", -1)])
def test_a_piece_counted_from_the_end(split: str, index: int) -> None:
    body = f"n = Constant <value = {split}> () i = Constant <value = int64 {{{index}}}> () "
    canonical(parse(body + "s = SplitToSequence <axis = 3> (x, n) y = SequenceAt(s, i)"))


def test_a_piece_counted_from_the_end_of_unknown_many_is_refused() -> None:
    body = "n = Constant <value = int64 {5}> () i = Constant <value = int64 {-1}> () "
    with pytest.raises(InputError, match="counts from the end"):
        canonical(parse(body + "s = SplitToSequence <axis = 3> (x, n) y = SequenceAt(s, i)"))


def test_sequences_that_lose_elements_are_refused() -> None:
    body = f"{PARTS} t = SequenceErase(s) y = ConcatFromSequence <axis = 1> (t)"
    with pytest.raises(InputError, match="SequenceErase"):
        canonical(parse(body))
