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


def test_sequences_that_are_edited_are_refused() -> None:
    body = f"{PARTS} t = SequenceInsert(s, z) y = ConcatFromSequence <axis = 1> (t)"
    with pytest.raises(InputError, match="SequenceInsert"):
        canonical(parse(body))
