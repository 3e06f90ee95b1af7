from __future__ import annotations

from typing import get_args

import pytest
import torch

from qvit_deploy.calibrate.products import ProductSample
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.formats.grids.probabilities import LevelGrid, LogGrid, UnsignedGrid
from qvit_deploy.formats.grids.scaled import HeadGrid, RowGrid
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.ranges.attention import attention_grids, operand_grid, softmax_grid
from qvit_deploy.recipe import Granularity, SoftmaxCodes
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit

KINDS: tuple[SoftmaxCodes, ...] = tuple(k for k in get_args(SoftmaxCodes) if k != "auto")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(sharpness: float = 2.0) -> ProductSample:
    """Probabilities of 4 images, 3 heads, 8 rows of 64 keys; every head's first key is a sink: much attention on a
    value near 0."""
    scores, values = sharpness * normal(4, 3, 8, 64), normal(4, 3, 64, 6, seed=1)
    scores[..., 0] += 3 * sharpness
    values[..., 0, :] *= 0.01
    return ProductSample(torch.softmax(scores, -1), values, None)


def scores(spread: tuple[float, ...] = (1.0, 1.0, 1.0)) -> ProductSample:
    """Queries and keys whose heads differ in size by `spread`."""
    by_head = torch.tensor(spread)[:, None, None]
    left, right = normal(4, 3, 8, 16) * by_head, normal(4, 3, 16, 20, seed=1) * by_head
    return ProductSample(left, right, torch.full((4, 3, 8, 20), 1 / 20))


def softmax_error(sample: ProductSample, grid: Grid) -> float:
    return float(sample.left_error(grid.apply(sample.left) - grid.shift).sum())


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
def test_auto_is_no_worse_than_any_kind_whose_product_runs_on_integers(bits: int, rows: bool) -> None:
    sample = attention()
    chosen = softmax_grid(sample, Int(bits), "auto", rows)
    for kind in KINDS:
        other = softmax_grid(sample, Int(bits), kind, rows)
        handicap = 1.0 if other.on_integers else 1.25
        assert softmax_error(sample, chosen) <= handicap * softmax_error(sample, other) * (1 + 1e-6)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(
    ("bits", "kind", "expected"),
    [
        (2, "uniform", UnsignedGrid), (7, "uniform", UnsignedGrid), (8, "uniform", ActivationGrid),
        (4, "log2", LogGrid), (5, "log2", UnsignedGrid), (5, "log-sqrt2", LogGrid), (6, "log-sqrt2", UnsignedGrid),
        (6, "levels", LevelGrid), (7, "levels", UnsignedGrid), (8, "levels", ActivationGrid),
    ],
)  # fmt: skip
def test_a_kind_that_makes_no_sense_at_a_width_gives_way_to_uniform(
    bits: int, kind: SoftmaxCodes, expected: type, rows: bool
) -> None:
    grid = softmax_grid(attention(), Int(bits), kind, rows)
    assert isinstance(grid, RowGrid) == rows
    assert isinstance(grid.common, expected) and grid.format == Int(bits)


def test_the_steps_of_log_codes_are_those_of_their_name() -> None:
    grids = [softmax_grid(attention(), Int(4), kind, False).common for kind in ("log2", "log-sqrt2")]  # type: ignore[arg-type]
    assert [g.steps for g in grids if isinstance(g, LogGrid)] == [1, 2]


def test_every_kind_beats_a_signed_grid_by_far_at_4_bits() -> None:
    sample = attention()
    signed = min(
        float(sample.left_error(Int(4).fake_quantize(sample.left, torch.tensor(r / 7))).sum())
        for r in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
    )
    errors = {kind: softmax_error(sample, softmax_grid(sample, Int(4), kind, False)) for kind in KINDS}
    assert max(errors.values()) < 0.7 * signed
    assert errors["levels"] < 0.5 * errors["uniform"] and errors["log-sqrt2"] < 0.5 * errors["uniform"]


def test_eight_bits_use_256_values_from_zero_on() -> None:
    grid = softmax_grid(attention(), Int(8), "uniform", False)
    assert isinstance(grid, ActivationGrid) and grid.shift == -128 * grid.scale
    values = grid.apply(torch.linspace(0, 1, 5000)) - grid.shift
    assert values.min() == 0 and len(values.unique()) == round(min(1 / grid.scale, 255)) + 1


def test_a_sink_whose_value_is_zero_does_not_set_the_range() -> None:
    """Probabilities near 1 cost nothing where the value is nothing, so the grid is spent on the others."""
    sample = attention()
    heavy = ProductSample(sample.left, normal(4, 3, 64, 6, seed=1), None)
    light, full = (softmax_grid(s, Int(4), "uniform", False).emitted_scale * 15 for s in (sample, heavy))
    assert light < 0.75 and full > 0.9


@pytest.mark.parametrize(
    "grid", [UnsignedGrid(Int(4), 1 / 15), ActivationGrid(Int(8), 1 / 255, -128 / 255), LogGrid(Int(4), 2, 1.0)]
)
def test_rows_are_quantized_relative_to_their_largest(grid: UnsignedGrid | ActivationGrid | LogGrid) -> None:
    p = attention().left
    largest = p.amax(-1, keepdim=True)
    rounded = RowGrid(grid).apply(p)
    torch.testing.assert_close(rounded, (grid.apply(p / largest) - grid.shift) * largest)
    torch.testing.assert_close(rounded.amax(-1, keepdim=True), largest)
    torch.testing.assert_close(RowGrid(grid).apply(p / 8), rounded / 8)
    assert RowGrid(grid).format == grid.format and RowGrid(grid).shift == 0


def test_rows_that_differ_in_size_gain_from_being_normalized() -> None:
    spread = attention(1.0)
    sharp = attention(6.0)
    both = ProductSample(torch.cat([spread.left, sharp.left]), torch.cat([spread.right, sharp.right]), None)
    errors = [softmax_error(both, softmax_grid(both, Int(4), "uniform", rows)) for rows in (False, True)]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("is_left", [True, False])
def test_a_scale_per_head_is_that_of_the_head_alone(is_left: bool) -> None:
    sample = scores((0.1, 1.0, 20.0))
    x = sample.left if is_left else sample.right
    grid = operand_grid(sample, is_left, Int(4), "head")
    assert isinstance(grid, HeadGrid) and len(grid.factors) == 3 and grid.format == Int(4)
    for head, factor in enumerate(grid.factors):
        alone = Int(4).fake_quantize(x[:, head], torch.tensor(grid.grid.scale / factor))
        same = torch.isclose(grid.apply(x)[:, head], alone, rtol=1e-5, atol=1e-6)
        assert same.float().mean() > 0.999  # x * factor may round across a tie
    common = operand_grid(sample, is_left, Int(4), "tensor")
    errors = []
    for each in (grid, common):
        error = sample.left_error if is_left else sample.right_error
        errors.append(error(each.apply(x)) / sample.power())
    assert errors[0][0] < 0.05 * errors[1][0] and (errors[0] <= errors[1] * 1.001).all()


def test_without_a_head_axis_there_is_one_scale() -> None:
    one = ProductSample(normal(4, 1, 8, 16), normal(4, 1, 16, 20), torch.full((4, 1, 8, 20), 1 / 20))
    assert isinstance(operand_grid(one, True, Int(4), "head"), ActivationGrid)


@pytest.mark.parametrize("granularity", ["tensor", "head"])
def test_at_8_bits_hardly_anything_is_clipped(granularity: Granularity) -> None:
    sample = scores()
    sample.left[0, 0, 0, 0] = absmax = 30.0
    widest = operand_grid(sample, True, Int(8), granularity).apply(torch.full((1, 3, 1, 1), 1e9))
    assert 0.9 * absmax < widest[0, 0].item() < 1.1 * absmax


def test_grids_come_for_the_operands_that_nothing_else_reads() -> None:
    calibrated = calibrate(mixed_vit(), (4, 8), attention=True)
    products = {s.name: s for s in calibrated.sites if s.second}
    grids = attention_grids(calibrated.sites, calibrated.products, (Int(4), Int(8)), "levels", True, "head")
    qk, av = products["attn.qk"], products["attn.av"]
    assert set(grids) == {(n, Int(b)) for n in (qk.input, qk.second, av.input, av.second) for b in (4, 8)}
    assert isinstance(grids[av.input, Int(4)], RowGrid)
    assert all(isinstance(grids[n, Int(4)], HeadGrid) for n in (qk.input, qk.second, av.second))


def test_a_tensor_with_two_readers_is_left_to_the_common_grids() -> None:
    site = Site("qk", "matmul_qk", "query", "same", "same", None, None, "y", "y", 0)
    assert attention_grids([site], {"qk": scores()}, (Int(4),), "auto", False, "tensor") == {}


def test_mixed_probabilities_of_both_signs_are_an_ordinary_operand() -> None:
    sample = attention()
    mixed = ProductSample(sample.left - 0.3, sample.right, None)
    site = Site("av", "matmul_av", "post_softmax", "p", "v", None, None, "y", "y", 0)
    grids = attention_grids([site], {"av": mixed}, (Int(4),), "levels", True, "tensor")
    assert all(isinstance(g, ActivationGrid) and g.shift == 0 for g in grids.values()) and len(grids) == 2
