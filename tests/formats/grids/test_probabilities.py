from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.formats.grids.probabilities import (
    FINE_TOP,
    LEVEL_TOP,
    LevelGrid,
    LogGrid,
    UnsignedGrid,
    log_codes,
    log_powers,
    log_table,
    log_values,
)
from qvit_deploy.formats.integer import Int

SHAPES = [(2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2), (5, 2)]
"""(bits, steps an octave) of every log code there is."""


def float32(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda x: float(np.float32(x)))


LOG = st.sampled_from(SHAPES)
LARGEST = float32(2**-6, 1.0)
PROBABILITIES = st.lists(float32(0, 1), min_size=1, max_size=40).map(torch.tensor)


@given(shape=LOG, largest=LARGEST)
@settings(deadline=None)
def test_every_value_of_a_log_grid_has_its_own_code(shape: tuple[int, int], largest: float) -> None:
    bits, steps = shape
    codes = torch.arange(2**bits)
    assert torch.equal(log_codes(log_values(codes, largest, bits, steps), largest, bits, steps), codes)


@given(shape=LOG, largest=LARGEST, p=PROBABILITIES)
@settings(deadline=None)
def test_larger_probabilities_never_get_larger_log_codes(
    shape: tuple[int, int], largest: float, p: torch.Tensor
) -> None:
    codes = log_codes(p.sort().values, largest, *shape)
    assert (codes.diff() <= 0).all() and codes.min() >= 0 and codes.max() < 2 ** shape[0]


@given(shape=LOG, largest=LARGEST, p=PROBABILITIES)
@settings(max_examples=200, deadline=None)
def test_the_error_is_half_a_step_of_the_logarithm_and_of_the_fine_grid(
    shape: tuple[int, int], largest: float, p: torch.Tensor
) -> None:
    bits, steps = shape
    p = p.clamp_max(largest)
    error = (LogGrid(Int(bits), steps, largest).apply(p).double() - p.double()).abs()
    relative, fine = 2 ** (0.5 / steps) - 1, 0.5 * largest / FINE_TOP
    smallest = largest * 2 ** (-(2**bits - 2) / steps)
    inside = torch.maximum(relative * p.double(), torch.tensor(smallest / 2))
    assert (error <= inside + (1 + relative) * fine + 1e-7).all()


@pytest.mark.parametrize(("bits", "steps"), SHAPES)
def test_log_codes_are_the_rounded_logarithm_away_from_ties(bits: int, steps: int) -> None:
    """Against the formula in float64, wherever half a step of the fine grid cannot decide."""
    p = torch.rand(4000, generator=torch.Generator().manual_seed(0)).square()
    exact = -steps * np.log2(p.double().numpy())
    unsure = steps * (0.5 / FINE_TOP) / (p.double().numpy() * math.log(2)) + 1e-6
    sure = (np.abs(exact % 1 - 0.5) > unsure) & (exact < 2**bits - 2.5)
    assert sure.sum() > 500
    np.testing.assert_array_equal(log_codes(p, 1.0, bits, steps).numpy()[sure], np.round(exact[sure]))


@pytest.mark.parametrize(("bits", "steps"), SHAPES)
def test_ends_denormals_and_powers_of_two(bits: int, steps: int) -> None:
    zero = 2**bits - 1
    assert log_codes(torch.tensor([0.0, 1e-45, 1e-39, 1e-12]), 1.0, bits, steps).tolist() == [zero] * 4
    assert LogGrid(Int(bits), steps, 0.7).apply(torch.tensor([0.0, 1e-45])).tolist() == [0, 0]
    assert log_codes(torch.tensor([0.7, 0.9, 1.0]), 0.7, bits, steps).tolist() == [0, 0, 0]
    powers = 2.0 ** -torch.arange((zero - 1) // steps + 1)
    assert torch.equal(LogGrid(Int(bits), steps, 1.0).apply(powers), powers)
    assert log_codes(powers, 1.0, bits, steps).tolist() == list(range(0, zero, steps))


@pytest.mark.parametrize(("bits", "steps"), SHAPES)
def test_what_is_nearer_to_zero_than_to_the_smallest_power_is_zero(bits: int, steps: int) -> None:
    smallest = 2 ** (-(2**bits - 2) / steps)
    step = 1 / FINE_TOP
    codes = log_codes(torch.tensor([0.5 * smallest - step, 0.5 * smallest + step]), 1.0, bits, steps)
    assert codes.tolist() == [2**bits - 1, 2**bits - 2]


@pytest.mark.parametrize(("bits", "steps"), SHAPES)
def test_what_a_target_adds_to_the_fine_grid_gives_the_value_to_the_last_bit(bits: int, steps: int) -> None:
    fine = torch.arange(FINE_TOP + 1) * torch.tensor(1 / FINE_TOP)
    wanted = log_powers(bits, steps)[log_table(bits, steps)]
    assert torch.equal(fine + (wanted - fine), wanted)


@pytest.mark.parametrize(("bits", "steps"), [(5, 1), (6, 2), (1, 2), (4, 3)])
def test_log_codes_that_make_no_sense_are_refused(bits: int, steps: int) -> None:
    with pytest.raises(ValueError, match=f"{bits}-bit log codes with {steps} steps"):
        log_codes(torch.tensor([0.5]), 1.0, bits, steps)


@given(bits=st.integers(2, 7), scale=float32(1e-4, 0.5), p=PROBABILITIES)
@settings(deadline=None)
def test_unsigned_codes_use_the_whole_width(bits: int, scale: float, p: torch.Tensor) -> None:
    grid = UnsignedGrid(Int(bits), scale)
    codes = grid.codes(p)
    assert grid.highest == 2**bits - 1 <= 127
    assert codes.min() >= 0 and codes.max() <= grid.highest
    expected = np.clip(np.rint(p.numpy() / np.float32(scale)), 0, 2**bits - 1) * np.float32(scale)
    np.testing.assert_array_equal(grid.apply(p).numpy(), expected)
    assert grid.codes(torch.tensor(1e9)) == grid.highest


@given(levels=st.sets(st.integers(1, LEVEL_TOP), min_size=3, max_size=3), scale=float32(1e-4, 0.01), p=PROBABILITIES)
@settings(deadline=None)
def test_levels_are_the_nearest_to_the_rounded_value(levels: set[int], scale: float, p: torch.Tensor) -> None:
    grid = LevelGrid(Int(2), scale, (0, *sorted(levels)))
    fine = np.clip(np.rint(p.numpy() / np.float32(scale)), 0, LEVEL_TOP)
    distance = np.abs(fine[:, None] - np.array(grid.levels))
    nearest = distance.argmin(1)  # the first, so the lower one of two
    np.testing.assert_array_equal(grid.codes(p).numpy(), nearest)
    np.testing.assert_array_equal(grid.apply(p).numpy(), np.float32(grid.levels)[nearest] * np.float32(scale))
    np.testing.assert_array_equal(grid.table().numpy()[fine.astype(int)], np.float32(grid.levels)[nearest])
