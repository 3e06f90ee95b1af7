"""Every row of the table against what the executor computes for that operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import onnx
import pytest
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.execute.ops import OPS
from qvit_deploy.graph import op_traits
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.op_traits import TRAITS, Operators, Traits, keeps_last_axis, slope_at_zero
from tests.support.graphs.operator_cases import CASES, Case, normal, positive
from tests.support.graphs.single_node import as_graph, single_node

Array = np.ndarray
X = normal(2, 3, 4)


def compute(op: str, inputs: Sequence[Array | None], **attributes: object) -> list[Array]:
    arrays = [None if a is None else np.asarray(a) for a in inputs]
    graph = as_graph(single_node(op, arrays, **attributes))  # type: ignore[arg-type]
    first = arrays[0]
    assert first is not None
    results = Executor(graph).run(Examples.images(torch.from_numpy(np.array(first)))).values()
    for_all = [output.batch_axis is None for output in graph.interface.outputs]  # repeated for each example
    return [(y[0] if same else y).numpy() for y, same in zip(results, for_all, strict=True)]


def cases_of(op: str) -> list[Case]:
    """Cases with numbers, not indices or flags, as the first input."""
    return [case for case in CASES if case[0] == op and np.asarray(case[1][0]).dtype == np.float32]


def runnable(operators: Operators) -> list[str]:
    runnable_ones = [op for op in operators if op in OPS]
    assert runnable_ones
    return runnable_ones


def gradient(op: str, x: Array, *others: Array | None, **attributes: object) -> Array:
    image = torch.from_numpy(x).requires_grad_()
    (y,) = Executor(as_graph(single_node(op, [x, *others], **attributes))).run(Examples.images(image)).values()  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(y.sum(), image)
    return slope.numpy()


# Which rows there are


def test_every_operator_that_runs_has_a_row() -> None:
    assert set(OPS) - set(TRAITS) == set()


def test_every_row_is_of_a_standard_operator_and_says_something_of_one_that_does_not_run() -> None:
    assert [op for op in TRAITS if not onnx.defs.has(op)] == []
    assert [op for op, traits in TRAITS.items() if op not in OPS and traits == Traits()] == []


def test_what_is_refused_is_what_does_not_run() -> None:
    assert set(op_traits.REFUSED) & set(OPS) == set()
    assert {op for op in TRAITS if op not in OPS} - set(op_traits.REFUSED) == {"Dropout"}  # canonicalization drops it


def test_every_trait_makes_a_set_or_is_asked_by_a_function() -> None:
    sets = {name: operators for name, operators in vars(op_traits).items() if isinstance(operators, Operators)}
    assert all(len(operators) for operators in sets.values())
    silent = {f.name for f in fields(Traits)} - {"neutral", "commutes", "keeps_last_axis"}  # asked row by row
    for name in silent:
        having = {op for op, traits in TRAITS.items() if getattr(traits, name) not in (None, False)}
        assert any(op in operators for operators in sets.values() for op in having), name


def test_a_set_reads_the_table_at_every_question(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Toy" not in op_traits.MOVES
    monkeypatch.setitem(TRAITS, "Toy", Traits(moves="picks"))
    assert "Toy" in op_traits.MOVES and "Toy" in set(op_traits.MOVES) and "Toy" in op_traits.MOVES | {"Clip"}
    assert 3 not in op_traits.MOVES


# What moves values


def commutes_with(change: Callable[[Array], Array], case: Case) -> bool:
    """Whether changing the data operands changes the results alike."""
    op, inputs, attributes = case
    data = len(inputs) if op == "Concat" else 1
    changed = [change(a) if i < data and a is not None else a for i, a in enumerate(inputs)]
    before, after = compute(op, inputs, **attributes), compute(op, changed, **attributes)
    return all(np.array_equal(change(a), b, equal_nan=True) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("op", [op for op in OPS if cases_of(op) and op != "Range"])  # Range reads three numbers
def test_what_moves_values_does_not_look_at_them_and_nothing_else_is_so(op: str) -> None:
    blind = all(commutes_with(lambda a: a * a - np.float32(1.37), case) for case in cases_of(op))
    assert blind == (op in op_traits.MOVES)


@pytest.mark.parametrize("op", runnable(op_traits.MOVES))
def test_how_values_are_moved(op: str) -> None:
    for _, inputs, attributes in cases_of(op):
        x, got = np.asarray(inputs[0]), compute(op, inputs, **attributes)
        match TRAITS[op].moves:
            case "copies":
                np.testing.assert_array_equal(got[0], x)
            case "reshapes":
                np.testing.assert_array_equal(got[0].reshape(-1), x.reshape(-1))
            case "permutes":
                np.testing.assert_array_equal(np.sort(got[0], axis=None), np.sort(x, axis=None))
            case "repeats":
                assert set(got[0].flat) == set(x.flat)
                assert got[0].shape != x.shape or np.array_equal(got[0], x)
            case "picks":
                assert all(set(y.flat) <= set(x.flat) for y in got)
            case "joins":
                parts = np.concatenate([np.asarray(a).reshape(-1) for a in inputs])
                np.testing.assert_array_equal(np.sort(got[0], axis=None), np.sort(parts))


def test_where_the_last_axis_is_said_to_be_kept_its_vectors_are_moved_whole() -> None:
    whole: set[str] = set()
    for op, inputs, attributes in (case for moving in runnable(op_traits.MOVES) for case in cases_of(moving)):
        node = next(as_graph(single_node(op, inputs, **attributes)).nodes())  # type: ignore[arg-type]
        if keeps_last_axis(node):
            whole.add(op)
            data = [np.asarray(a) for a in inputs[: len(inputs) if op == "Concat" else 1]]
            width = data[0].shape[-1]
            vectors = {v.tobytes() for a in data for v in a.reshape(-1, width)}
            for y in compute(op, inputs, **attributes):
                assert {v.tobytes() for v in y.reshape(-1, width)} <= vectors, op
    assert whole == {op for op, traits in TRAITS.items() if traits.keeps_last_axis is not None}


# What is elementwise


@pytest.mark.parametrize("op", runnable(op_traits.ELEMENTWISE))
def test_a_change_at_one_place_of_an_operand_shows_at_that_place_only(op: str) -> None:
    for _, inputs, attributes in cases_of(op):
        x = np.array(inputs[0])
        place = np.zeros(x.shape, bool)
        place.reshape(-1)[x.size // 2] = True
        changed = np.where(place, 0.75, x).astype(x.dtype)
        (before,), (after,) = (compute(op, [a, *inputs[1:]], **attributes) for a in (x, changed))
        elsewhere = ~np.broadcast_to(place, before.shape)
        np.testing.assert_array_equal(before[elsewhere], after[elsewhere])


def operands_of(op: str, *shapes: tuple[int, ...]) -> list[Array]:
    """Two operands of the type that the operator takes."""
    if op in ("And", "Or", "Xor"):
        return [positive(*shape) > 0.5 for shape in shapes]
    if op.startswith("Bit"):
        return [(5 * positive(*shape)).astype(np.uint8) for shape in shapes]
    return [positive(*shape) for shape in shapes]


@pytest.mark.parametrize("op", runnable(op_traits.BROADCASTS))
def test_operands_are_broadcast(op: str) -> None:
    operands = operands_of(op, (1, 4), (3, 1))
    operands = [positive(3, 1) > 0.5, *operands] if op == "Where" else operands
    attributes: dict[str, object] = {"Mod": {"fmod": 1}, "BitShift": {"direction": "LEFT"}}.get(op, {})
    assert compute(op, operands, **attributes)[0].shape == (3, 4)


@pytest.mark.parametrize("op", runnable(op_traits.SCALES))
def test_what_scales_is_linear_in_its_first_operand(op: str) -> None:
    c = np.float32(0.3)
    np.testing.assert_array_equal(compute(op, [4 * X, c])[0], 4 * compute(op, [X, c])[0])
    assert not np.array_equal(compute(op, [X, c])[0], X)


@pytest.mark.parametrize("op", [op for op, t in TRAITS.items() if t.neutral is not None])
def test_the_neutral_operand_changes_nothing(op: str) -> None:
    np.testing.assert_array_equal(compute(op, [X, np.float32(TRAITS[op].neutral)])[0], X)


@pytest.mark.parametrize("op", sorted(op_traits.BROADCASTS - {"Mod", "Where"}))
def test_operands_may_change_places_where_the_row_says_so(op: str) -> None:
    a, b = operands_of(op, (2, 3, 4), (2, 3, 4))
    attributes = {"direction": "LEFT"} if op == "BitShift" else {}
    results = [compute(op, pair, **attributes)[0] for pair in ([a, b], [b, a])]
    assert np.array_equal(*results) == TRAITS[op].commutes


@pytest.mark.parametrize("op", runnable(op_traits.ACTIVATIONS))
def test_an_activation_is_zero_at_zero_and_has_that_slope_there(op: str) -> None:
    has_alpha = op in ("Celu", "Elu", "LeakyRelu", "Selu", "ThresholdedRelu")
    for attributes in [{}, {"alpha": 0.2}, {"alpha": -0.3}] if has_alpha else [{}]:
        zero = np.zeros(1, np.float32)
        more = [np.float32([0.25])] if op == "PRelu" else []
        node = next(as_graph(single_node(op, [zero, *more], **attributes)).nodes())
        assert compute(op, [zero, *more], **attributes)[0] == 0
        assert gradient(op, zero, *more, **attributes)[0] == pytest.approx(slope_at_zero(node), abs=1e-6)


@pytest.mark.parametrize("op", [op for op in runnable(op_traits.ELEMENTWISE) if op not in op_traits.BROADCASTS])
def test_steps_and_nothing_else_have_no_slope(op: str) -> None:
    cases = [case for case in cases_of(op) if compute(op, case[1], **case[2])[0].dtype == np.float32]
    for _, inputs, attributes in cases:
        x = np.asarray(inputs[0]) + np.float32(0.01)
        slopes = gradient(op, x, *inputs[1:], **attributes)
        assert bool(slopes.any()) != (op in op_traits.STEPS)


# What reduces, multiplies, normalizes


@pytest.mark.parametrize("op", runnable(op_traits.DESCRIBES))
def test_a_description_is_of_the_shape(op: str) -> None:
    np.testing.assert_array_equal(compute(op, [X[0]])[0], compute(op, [-2 * X[0]])[0])


@pytest.mark.parametrize("op", runnable(op_traits.SUMS))
def test_what_is_summed(op: str) -> None:
    left = np.zeros((1, 2, 4), np.float32)
    left[..., :2] = normal(1, 2, 2)
    right = normal(1, 2, 4) * (left == 0)
    a, b, both, opposite = (compute(op, [v])[0].astype(np.float64) for v in (left, right, left + right, -2 * left))
    match TRAITS[op].sums:
        case "values":
            np.testing.assert_allclose(both, a + b, atol=1e-6)
            np.testing.assert_allclose(opposite, -2 * a, atol=1e-6)
        case "magnitudes":
            np.testing.assert_allclose(both, a + b, rtol=1e-5)
            np.testing.assert_allclose(opposite, 2 * a, rtol=1e-5)
        case "squares":
            squares = [v**2 if np.allclose(opposite, 2 * a) else v for v in (a, b, both)]
            np.testing.assert_allclose(squares[2], squares[0] + squares[1], rtol=1e-5)


@pytest.mark.parametrize("op", runnable(op_traits.PRODUCTS))
def test_a_product_is_linear_in_both_operands(op: str) -> None:
    for _, inputs, attributes in cases_of(op):
        a, b = (np.asarray(v) for v in inputs[:2])
        y = compute(op, [a, b], **attributes)[0]
        np.testing.assert_array_equal(compute(op, [4 * a, b], **attributes)[0], 4 * y)
        np.testing.assert_array_equal(compute(op, [a, 4 * b], **attributes)[0], 4 * y)


@pytest.mark.parametrize("op", [op for op, t in TRAITS.items() if t.normalizes and op in OPS])
def test_what_a_normalization_takes_out(op: str) -> None:
    maps = 3 * normal(2, 4, 5, 4)
    gain, shift, mean, variance = normal(4), normal(4), normal(4), positive(4)
    more = {
        "LpNormalization": [], "BatchNormalization": [gain, shift, mean, variance],
    }.get(op, [gain, shift])  # fmt: skip
    groups = {"num_groups": 2} if op == "GroupNormalization" else {}
    y, larger, moved = (compute(op, [x, *more], **groups)[0] for x in (maps, 64 * maps, maps + 7))
    same_size, same_place = (np.allclose(v, y, rtol=1e-3, atol=1e-3) for v in (larger, moved))
    expected = {"moments": (True, True), "length": (True, False), "constants": (False, False)}
    assert (same_size, same_place) == expected[TRAITS[op].normalizes or ""]


# Rows


@pytest.mark.parametrize("op", runnable(op_traits.KEEPS_ROWS))
def test_rows_of_the_result_are_made_of_rows_of_the_first_operand(op: str) -> None:
    more: dict[str, list[Array]] = {
        "LayerNormalization": [normal(4), normal(4)],
        "QuantizeLinear": [np.float32(0.1), np.int8(0)],
        "DequantizeLinear": [np.float32(0.1)],
    }
    x = (20 * X).round().astype(np.int8) if op == "DequantizeLinear" else X
    all_rows, some = (compute(op, [a, *more.get(op, [])])[0] for a in (x, x[:, [2, 0]]))
    np.testing.assert_allclose(all_rows[:, [2, 0]], some, rtol=1e-6)


@pytest.mark.parametrize("op", runnable(op_traits.KEEPS_ROWS_OF_BOTH))
def test_rows_of_the_result_are_made_of_rows_of_both_operands(op: str) -> None:
    a, b = X, positive(2, 3, 4)
    np.testing.assert_array_equal(compute(op, [a, b])[0][:, [2, 0]], compute(op, [a[:, [2, 0]], b[:, [2, 0]]])[0])
