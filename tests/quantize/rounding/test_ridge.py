from __future__ import annotations

import math

import pytest
import torch

from qvit_deploy.quantize.rounding.compensate import GramAccumulator, pooled, regress
from qvit_deploy.quantize.rounding.ridge import SHARES, cross_validated_share

CHANNELS = 48


def halves(x: torch.Tensor, changed: torch.Tensor) -> tuple[GramAccumulator, GramAccumulator]:
    accumulators = GramAccumulator(x.shape[1]), GramAccumulator(x.shape[1])
    for accumulator, rows, exact in zip(accumulators, changed.chunk(2), x.chunk(2), strict=True):
        accumulator.add(rows, exact, None)
    return accumulators


def problem(rows: int, systematic: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(inputs, changed inputs, weight). A systematic change can be undone by the weights, noise cannot."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, CHANNELS, generator=generator)
    other = torch.randn(CHANNELS, CHANNELS, generator=generator) / CHANNELS
    noise = 0.3 * torch.randn(rows, CHANNELS, generator=generator)
    changed = x + x @ other if systematic else x + noise / 6
    return x, changed, torch.randn(CHANNELS, 80, generator=generator)


def test_a_change_that_weights_can_undo_is_regressed_away() -> None:
    x, changed, weight = problem(600, systematic=True)
    share = cross_validated_share(weight, halves(x, changed), seed=0)
    assert share == SHARES[-1] / 2
    better = regress(weight, pooled(halves(x, changed)), share)
    before, after = (float((x @ weight - changed @ w).square().sum()) for w in (weight, better))
    assert after < 0.05 * before


def test_noise_on_few_rows_leaves_the_weights_alone() -> None:
    x, changed, weight = problem(60, systematic=False)
    assert cross_validated_share(weight, halves(x, changed), seed=0) >= SHARES[0] / 2


def test_it_does_better_on_other_rows_than_the_most_regression() -> None:
    x, changed, weight = problem(4000, systematic=False)
    known = halves(x[:60], changed[:60])
    share = cross_validated_share(weight, known, seed=0)

    def error(chosen: float) -> float:
        moved = regress(weight, pooled(known), chosen)
        return float((x[60:] @ weight - changed[60:] @ moved).square().mean())

    assert error(share) < 0.8 * error(SHARES[-1] / 2)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e6])
def test_degenerate_inputs_choose_something(scale: float) -> None:
    x, changed, weight = problem(60, systematic=False)
    x, changed = x * scale, changed * scale
    share = cross_validated_share(weight, halves(x, changed), seed=0)
    assert share > 0 and torch.isfinite(regress(weight, pooled(halves(x, changed)), share)).all()
    assert math.isinf(share) or share <= SHARES[0]
