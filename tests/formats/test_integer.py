from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.formats.integer import Int, Unsigned

WIDTHS = st.integers(2, 8)


def float32(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda x: float(np.float32(x)))


SCALES = float32(1e-6, 1e3)
VALUES = st.lists(float32(-1e5, 1e5), min_size=1, max_size=40).map(torch.tensor)


@given(x=VALUES, scale=SCALES, bits=WIDTHS)
@settings(max_examples=150, deadline=None)
def test_codes_are_those_of_numpy_and_of_onnx_quantize_linear(x: torch.Tensor, scale: float, bits: int) -> None:
    low, high = Int(bits).range
    codes = Int(bits).quantize(x, torch.tensor(scale))
    expected = np.clip(np.rint(x.numpy() / np.float32(scale)), low, high)
    assert np.array_equal(codes.numpy(), expected)


@given(x=VALUES, scale=SCALES, bits=WIDTHS)
@settings(max_examples=150, deadline=None)
def test_a_grid_point_stays_where_it_is(x: torch.Tensor, scale: float, bits: int) -> None:
    once = Int(bits).fake_quantize(x, torch.tensor(scale))
    assert torch.equal(Int(bits).fake_quantize(once, torch.tensor(scale)), once)


@given(x=VALUES, scale=SCALES, bits=WIDTHS)
@settings(max_examples=100, deadline=None)
def test_larger_values_never_get_smaller_codes(x: torch.Tensor, scale: float, bits: int) -> None:
    codes = Int(bits).quantize(x.sort().values, torch.tensor(scale))
    assert (codes.diff() >= 0).all()


@given(codes=st.lists(float32(-128, 127), min_size=1, max_size=40), scale=SCALES, bits=WIDTHS)
@settings(max_examples=100, deadline=None)
def test_inside_the_range_the_error_is_half_a_step_at_most(codes: list[float], scale: float, bits: int) -> None:
    low, high = Int(bits).range
    x = torch.tensor(codes).clamp(low, high) * scale
    error = (Int(bits).fake_quantize(x, torch.tensor(scale)).double() - x.double()).abs().max()
    assert error <= 0.5 * scale * (1 + 1e-5)


def test_halves_round_to_even() -> None:
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert Int(8).quantize(x, torch.tensor(1.0)).tolist() == [-2, -2, 0, 0, 2, 2]


def test_code_ranges() -> None:
    assert [Int(b).range for b in (2, 4, 6, 8)] == [(-2, 1), (-8, 7), (-32, 31), (-128, 127)]
    for bits in (1, 9):
        with pytest.raises(ValueError, match="2 to 8"):
            Int(bits)


@given(bits=WIDTHS, absmax=float32(0, 1e30))
@settings(deadline=None)
def test_the_scale_of_any_magnitude_is_positive_and_puts_it_on_the_highest_code(bits: int, absmax: float) -> None:
    scale = Int(bits).choose_scale(torch.tensor(absmax))
    assert scale > 0 and torch.isfinite(scale)
    if absmax > 1e-6:
        assert Int(bits).quantize(torch.tensor(absmax), scale) == Int(bits).range[1]
        torch.testing.assert_close(
            Int(bits).dequantize(Int(bits).quantize(torch.tensor(absmax), scale), scale), torch.tensor(absmax)
        )


def test_without_a_sign_the_same_bits_reach_twice_as_far() -> None:
    assert [Unsigned(b).range for b in (2, 4, 7)] == [(0, 3), (0, 15), (0, 127)]
    assert Unsigned(4) != Int(4) and Unsigned(4).short == "4" and Unsigned(7).container == np.int8
    codes = Unsigned(4).quantize(torch.tensor([-3.0, 0.0, 7.5, 99.0]), torch.tensor(0.5))
    assert codes.tolist() == [0, 0, 15, 15]
    for bits in (1, 8):
        with pytest.raises(ValueError, match="without a sign"):
            Unsigned(bits)
