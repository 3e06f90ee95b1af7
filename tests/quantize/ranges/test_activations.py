from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.integer import Int, Unsigned
from qvit_deploy.quantize.ranges.activations import activation_grid, channel_importance
from tests.support.graphs.convolution_graphs import pyramid
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit


def observation(rows: torch.Tensor, weights: torch.Tensor | None = None) -> Observation:
    low, high = rows.amin(0), rows.amax(0)
    weights = torch.ones(len(rows)) if weights is None else weights
    return Observation(float(low.min()), float(high.max()), low.numpy(), high.numpy(), rows, weights, rows.shape[1])


def error(grid: ActivationGrid, rows: torch.Tensor) -> float:
    return float((grid.apply(rows) - grid.shift - rows).square().sum())


GELU = torch.nn.functional.gelu(2 * torch.randn(400, 16, generator=torch.Generator().manual_seed(0)))


def test_more_bits_mean_less_error() -> None:
    errors = [error(activation_grid(observation(GELU), torch.ones(16), Int(b)), GELU) for b in range(2, 9)]
    assert all(later < earlier for earlier, later in pairwise(errors))


def test_the_range_suits_the_rows_that_count() -> None:
    rows = torch.cat([GELU, 30 * GELU])
    small = activation_grid(observation(rows, torch.tensor([1.0] * 400 + [0.0] * 400)), torch.ones(16), Int(4))
    both = activation_grid(observation(rows), torch.ones(16), Int(4))
    assert error(small, GELU) < 0.2 * error(both, GELU)


def test_readers_of_one_tensor_share_its_importance() -> None:
    calibrated = calibrate(mixed_vit(), (4,))
    readers = [s for s in calibrated.sites if s.role == "post_layernorm" and s.name.startswith("attn.")]
    assert len(readers) == 3 and len({s.input for s in readers}) == 1
    summed = sum((calibrated.weights[s.name].square().sum(1) for s in readers), torch.zeros(1))
    torch.testing.assert_close(channel_importance(calibrated.sites, calibrated.weights)[readers[0].input], summed)


def test_codes_of_what_convolutions_read_behind_relu_have_no_sign() -> None:
    calibrated = calibrate(pyramid(), (4, 8))
    inputs = {s.name: s.input for s in calibrated.sites}
    unsigned = {name for name, tensor in inputs.items() if calibrated.grids[tensor, Int(4)].format == Unsigned(4)}
    assert unsigned == {"grouped", "cls", "box", "down"}
    assert all(calibrated.grids[tensor, Int(8)].format == Int(8) for tensor in inputs.values())


@pytest.mark.parametrize("bits", [2, 4, 7])
def test_codes_without_a_sign_halve_the_step_behind_relu(bits: int) -> None:
    rows = GELU.relu()
    signed, unsigned = (activation_grid(observation(rows), torch.ones(16), f) for f in (Int(bits), Unsigned(bits)))
    assert error(unsigned, rows) < 0.4 * error(signed, rows)
    assert float(unsigned.apply(torch.zeros(1))) == 0
