from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from quantizable_graphs import calibrate, mixed_vit

from qvit_deploy.calibrate.observe import Observation
from qvit_deploy.quantize.activations import ActivationGrid, activation_grid


def observation(rows: torch.Tensor) -> Observation:
    low, high = rows.amin(0), rows.amax(0)
    return Observation(float(low.min()), float(high.max()), low.numpy(), high.numpy(), rows, rows.shape[1])


def error(grid: ActivationGrid, rows: torch.Tensor) -> float:
    return float((grid.apply(rows) - grid.shift - rows).square().sum())


GELU = torch.nn.functional.gelu(2 * torch.randn(400, 16, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_a_one_sided_tensor_is_shifted_where_that_pays(bits: int) -> None:
    shifted = activation_grid(observation(GELU), torch.ones(16), bits, may_shift=True)
    plain = activation_grid(observation(GELU), torch.ones(16), bits, may_shift=False)
    assert shifted.shift < 0 and plain.shift == 0
    assert error(shifted, GELU) < 0.7 * error(plain, GELU)
    mirrored = activation_grid(observation(-GELU), torch.ones(16), bits, may_shift=True)
    assert mirrored.shift > 0


def test_eight_bits_and_two_sided_tensors_are_not_shifted() -> None:
    assert activation_grid(observation(GELU), torch.ones(16), 8, may_shift=True).shift == 0
    both_sides = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    assert activation_grid(observation(both_sides), torch.ones(16), 4, may_shift=True).shift == 0


def test_more_bits_mean_less_error() -> None:
    widths = (2, 3, 4, 5, 6, 8)  # 8 bits without the shift are no better than 7 bits with it
    errors = [error(activation_grid(observation(GELU), torch.ones(16), b, may_shift=True), GELU) for b in widths]
    assert all(later < earlier for earlier, later in pairwise(errors))


def test_tensors_that_a_convolution_or_an_attention_product_reads_are_not_shifted() -> None:
    """Only a linear's bias can take the shift back at no cost."""
    calibrated = calibrate(mixed_vit(), (4,), attention=True)
    shifted = {name for (name, _), grid in calibrated.grids.items() if grid.shift}
    readers = {s.input for s in calibrated.sites if s.role == "post_gelu"}
    assert readers <= shifted
    for site in calibrated.sites:
        if site.kind != "linear":
            assert site.input not in shifted and site.second not in shifted
