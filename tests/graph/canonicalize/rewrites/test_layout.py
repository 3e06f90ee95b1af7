import numpy as np
import pytest

from tests.support.graphs.canonical_cases import canonical, ops, parse


def test_transposes_are_composed_and_cancelled() -> None:
    assert ops(canonical(parse("a = Transpose <perm = [0, 2, 3, 1]> (x) y = Transpose <perm = [0, 2, 1, 3]> (a)"))) == [
        "Transpose"
    ]
    body = "a = Transpose <perm = [0, 2, 3, 1]> (x) b = Transpose <perm = [0, 3, 1, 2]> (a) y = Relu(b)"
    assert ops(canonical(parse(body))) == ["Relu"]


def test_reshapes_are_merged() -> None:
    body = (
        "s = Constant<value = int64[3] {0, 3, 64}>() t = Constant<value = int64[2] {0, 192}>()"
        " a = Reshape(x, s) y = Reshape(a, t)"
    )
    assert ops(canonical(parse(body))) == ["Reshape"]


def test_identity_dropout_and_neutral_arithmetic_go() -> None:
    body = (
        "one = Constant<value = float {1.0}>() a = Identity(x) b = Dropout(a) c = Mul(b, one)"
        " d = Cast <to = 1> (c) y = Relu(d)"
    )
    assert ops(canonical(parse(body))) == ["Relu"]


def test_an_output_that_is_the_input_keeps_an_identity() -> None:
    assert ops(canonical(parse("y = Identity(x)"))) == ["Identity"]


def test_selecting_one_element_is_a_gather() -> None:
    slice_form = (
        "s = Constant<value = int64[1] {1}>() e = Constant<value = int64[1] {2}>()"
        " a = Constant<value = int64[1] {1}>()"
        " c = Slice(x, s, e, a) y = Squeeze(c, a)"
    )
    split_form = (
        "a = Constant<value = int64[1] {1}>() p, q, r = Split <axis = 1, num_outputs = 3> (x) y = Squeeze(q, a)"
    )
    for body in (slice_form, split_form):
        assert ops(canonical(parse(body))) == ["Gather"]


def test_sequences_become_slices() -> None:
    body = (
        "n = Constant<value = int64[2] {3, 5}>() i = Constant<value = int64 {1}>()"
        " s = SplitToSequence <axis = 3> (x, n) y = SequenceAt(s, i)"
    )
    graph = canonical(parse(body))
    assert ops(graph) == ["Slice"]
    assert graph.outputs[0].shape[3] == 5


def test_k_transposed_through_a_flat_batch_is_one_transpose() -> None:
    body = (
        "s = Constant<value = int64[3] {-1, 8, 8}>() r = Reshape(x, s) t = Transpose <perm = [0, 2, 1]> (r)"
        " b = Constant<value = int64[4] {-1, 3, 8, 8}>() y = Reshape(t, b)"
    )
    assert ops(canonical(parse(body))) == ["Transpose"]


def test_zero_padding_goes_and_a_linear_bias_of_zeros_stays() -> None:
    body = "p = Constant<value = int64[8] {0, 0, 0, 0, 0, 0, 0, 0}>() a = Pad(x, p) m = MatMul(a, w) y = Add(m, b)"
    graph = canonical(parse(body, w=np.ones((8, 8), np.float32), b=np.zeros(8, np.float32)))
    assert ops(graph) == ["MatMul", "Add"]


@pytest.mark.parametrize(("start", "step"), [(-100, 1), (100, -1)])
def test_one_element_of_a_slice_that_begins_outside(start: int, step: int) -> None:
    numbers = {"s": [start], "e": [1 if step > 0 else -2], "a": [2], "t": [step]}
    constants = " ".join(f"{k} = Constant<value = int64[1] {{{v[0]}}}>()" for k, v in numbers.items())
    canonical(parse(f"{constants} c = Slice(x, s, e, a, t) y = Squeeze(c, a)"))


@pytest.mark.parametrize("axis", [2, 3, 5])
def test_a_permutation_that_is_none_at_one_batch_size_stays(axis: int) -> None:
    body = (
        f"s = Constant<value = int64[2] {{-1, {axis}}}>() a = Reshape(x, s) b = Transpose(a) c = Reshape(b, s)"
        " y = Transpose(c)"
    )
    canonical(parse(body, shape=f"N,1,1,{axis}"), batches=(1, 2, 3, 5))
