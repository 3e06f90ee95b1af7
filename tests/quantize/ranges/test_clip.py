from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.formats.integer import Int
from qvit_deploy.quantize.ranges.clip import FEW_ROWS, Tails, activation_scale, channel_ranges, weight_scale


def weighted_error(x: torch.Tensor, scale: torch.Tensor, bits: int, importance: torch.Tensor) -> torch.Tensor:
    return ((Int(bits).fake_quantize(x, scale) - x).square() * importance).sum(0)


@given(seed=st.integers(0, 10_000), bits=st.integers(2, 8), tail=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_weight_scale_is_never_worse_than_the_largest_magnitude_s(seed: int, bits: int, tail: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(24, 6, generator=generator)
    weight[0] *= 1 + 30 * tail
    importance = torch.rand(24, generator=generator)
    error = weighted_error(weight, weight_scale(weight, Int(bits), importance), bits, importance[:, None])
    plain = weighted_error(weight, Int(bits).choose_scale(weight.abs().amax(0)), bits, importance[:, None])
    assert (error <= plain * (1 + 1e-5)).all()


@given(seed=st.integers(0, 10_000), bits=st.integers(2, 8), outlier=st.floats(1, 100))
@settings(max_examples=25, deadline=None)
def test_an_activation_scale_is_never_worse_than_the_largest_magnitude_s(seed: int, bits: int, outlier: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, importance = torch.randn(FEW_ROWS + 1, 8, generator=generator), torch.rand(8, generator=generator)
    rows[7, 3] = outlier
    absmax = float(rows.abs().max())
    error = weighted_error(
        rows, activation_scale(rows, torch.ones(len(rows)), importance, absmax, Int(bits)), bits, importance
    ).sum()
    plain = weighted_error(rows, Int(bits).choose_scale(torch.tensor(absmax)), bits, importance).sum()
    assert error <= plain * (1 + 1e-3)


def test_a_massive_activation_survives() -> None:
    """One value of 300 among 5,000 of size 1, the register of a ViT. Cutting it to any percentile costs more squared
    error than coarse steps do."""
    rows = torch.randn(100, 50, generator=torch.Generator().manual_seed(0))
    rows[10, 20] = 300.0
    scale = activation_scale(rows, torch.ones(len(rows)), torch.ones(50), 300.0, Int(8))
    assert Int(8).fake_quantize(rows[10, 20], scale) == pytest.approx(300, rel=0.03)


def test_a_light_outlier_is_clipped_where_bits_are_few() -> None:
    rows = torch.randn(1000, 50, generator=torch.Generator().manual_seed(0))
    absmax = float(rows.abs().max())
    scale = float(activation_scale(rows, torch.ones(len(rows)), torch.ones(50), absmax, Int(4)))
    assert scale * Int(4).range[1] < 0.8 * absmax


def test_the_channel_that_matters_decides() -> None:
    """A wide channel nobody reads must not coarsen the grid of a narrow one."""
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([10.0, 1.0])
    absmax = float(rows.abs().max())
    read = activation_scale(rows, torch.ones(len(rows)), torch.tensor([0.0, 1.0]), absmax, Int(4))
    both = activation_scale(rows, torch.ones(len(rows)), torch.tensor([1.0, 1.0]), absmax, Int(4))
    assert read < 0.5 * both


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_and_constant_columns(bits: int) -> None:
    weight = torch.zeros(16, 3)
    weight[:, 1] = 0.25
    weight[3, 2] = -1.0
    scale = weight_scale(weight, Int(bits))
    assert (scale > 0).all() and torch.isfinite(scale).all()
    assert (Int(bits).quantize(weight, scale)[:, 0] == 0).all()
    torch.testing.assert_close(Int(bits).fake_quantize(weight, scale)[:, 1], weight[:, 1], rtol=0.03, atol=0)
    assert torch.isfinite(activation_scale(torch.zeros(5, 3), torch.ones(5), torch.ones(3), 0.0, Int(bits)))


@given(st.integers(0, 10_000), st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_a_channel_s_range_follows_its_shift_and_scale(seed: int, bits: int) -> None:
    rows = torch.randn(FEW_ROWS + 1, 5, generator=torch.Generator().manual_seed(seed))
    weights = torch.rand(FEW_ROWS + 1, generator=torch.Generator().manual_seed(seed + 1)) + 0.1
    width, centre = channel_ranges(rows, weights, bits)
    assert (width > 0).all() and (width <= (rows.amax(0) - rows.amin(0))).all()
    wider, moved = channel_ranges(4 * rows + 16, weights, bits)  # powers of 2: nearly no rounding
    torch.testing.assert_close(wider, 4 * width, rtol=0.2, atol=1e-3)
    torch.testing.assert_close(moved, 4 * centre + 16, rtol=0.2, atol=0.5)


def test_a_tail_on_one_side_is_cut_on_that_side() -> None:
    rows = torch.cat([torch.rand(500, 1), torch.full((1, 1), 30.0)])
    width, centre = channel_ranges(rows, torch.cat([torch.ones(500), torch.tensor([1e-4])]), 4)
    assert 0.3 < float(centre) < 3 and float(width) < 6


@pytest.mark.parametrize("bits", [4, 8])
def test_ranges_of_few_rows_have_head_room_for_others(bits: int) -> None:
    """A pooled head: 16 images give 16 rows. Ranges that fit them clip the next ones."""
    generator = torch.Generator().manual_seed(1)
    spread = torch.rand(48, generator=generator) + 0.5
    rows, others = (torch.randn(n, 48, generator=generator) * spread for n in (16, 4000))
    width, centre = channel_ranges(rows, torch.ones(16), bits)
    levels = 2 ** (bits - 1)

    def error(x: torch.Tensor, width: torch.Tensor, centre: torch.Tensor) -> float:
        step = width / (levels - 0.5)
        return float((((x - centre) / step).round().clamp(-levels, levels - 1) * step + centre - x).square().mean())

    low, high = rows.amin(0), rows.amax(0)
    as_seen = error(others, (high - low) / 2, (high + low) / 2)
    assert error(others, width, centre) < (as_seen / 10 if bits == 8 else 0.9 * as_seen)


def test_one_scale_of_few_rows_has_head_room_too() -> None:
    generator = torch.Generator().manual_seed(2)
    rows, others = torch.randn(16, 8, generator=generator), torch.randn(4000, 8, generator=generator)
    scale = activation_scale(rows, torch.ones(16), torch.ones(8), float(rows.abs().max()), Int(8))
    fitted = Int(8).choose_scale(rows.abs().max())
    clipped, plain = (float((Int(8).fake_quantize(others, s) - others).square().mean()) for s in (scale, fitted))
    assert scale > fitted and clipped < plain


def test_what_lies_beyond_a_sample_is_what_the_exponential_says() -> None:
    tails = Tails(torch.randn(20, 1, generator=torch.Generator().manual_seed(0)), torch.ones(20), torch.zeros(1))
    excess = torch.distributions.Exponential(1 / tails.scale).sample((200_000,))
    for room in (-0.5, 0.0, 0.4):
        expected = (excess - room).clamp_min(0).square().mean(0) / 21
        share = tails.beyond(torch.tensor([2.0]), torch.tensor([2.0 + room]))
        assert share.item() == pytest.approx(expected.item(), rel=0.05)


def test_a_constant_channel_of_few_rows_keeps_the_width_0() -> None:
    width, centre = channel_ranges(torch.full((16, 2), 3.0), torch.ones(16), 8)
    assert width.tolist() == [0, 0] and centre.tolist() == [3, 3]
