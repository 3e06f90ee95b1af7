"""Grids for the operands of attention products, chosen by the error they make in the product's output.

Both operands are data, so that what an error costs depends on the other one: attention sinks, for instance, are keys
with probabilities near 1 and values near 0. Candidates are therefore compared on whole products of a few images
(`calibrate.products`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from qvit_deploy.calibrate.products import ProductSample
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.grid import Grid, Tensor, absmax_scale, code_range, fake_quantize
from qvit_deploy.quantize.ranges.activations import ActivationGrid
from qvit_deploy.quantize.ranges.clip import FRACTIONS
from qvit_deploy.quantize.ranges.levels import best_levels
from qvit_deploy.quantize.ranges.softmax import LEVEL_TOP, LOG_BITS, UNSIGNED_BITS, LevelGrid, LogGrid, UnsignedGrid
from qvit_deploy.recipe import Granularity, SoftmaxCodes

RANGES = tuple(2 ** (-i / 4) for i in range(9))
"""Candidate ranges of probabilities, as fractions of the largest ever seen."""

FLOAT_HANDICAP = 1.25
"""`auto` takes logarithmic codes, whose product runs in floating point, only if those on integers have this many times
their squared error: they are close where levels fit (DINOv2 ViT-S at 4 bits: 0.058 against 0.060 of the output)."""


@dataclass(frozen=True)
class HeadGrid:
    """One scale per head: head h of [n, heads, rows, columns] is quantized as x * factors[h] on one common grid.

    Dividing by the factors is left to the product's output, so the integers meet in one per-tensor product, with a
    scalar scale and zero point 0 (a scale per head on the quantizer itself is what neither ONNX Runtime fuses nor
    TensorRT takes).

    Attributes:
        grid: the common grid, without a shift.
        factors: float > 0 per head.
    """

    grid: ActivationGrid
    factors: tuple[float, ...]
    shift: ClassVar[float] = 0.0

    @property
    def bits(self) -> int:
        return self.grid.bits

    def apply(self, x: Tensor) -> Tensor:
        """The dequantized value of x float32 [n, heads, rows, columns], divided by the factors again."""
        factors = torch.tensor(self.factors, device=x.device)[:, None, None]
        return self.grid.apply(x * factors) / factors


ProbabilityGrid = ActivationGrid | UnsignedGrid | LevelGrid | LogGrid


@dataclass(frozen=True)
class RowGrid:
    """Probabilities are divided by the largest of their row (last axis) before `grid`, the product multiplied by it.

    p / max(p) = exp(s - max(s)): what is quantized is the softmax before its normalization, the way fused attention
    kernels hold it. Every row then uses the whole grid, however many keys share its attention.
    """

    grid: ProbabilityGrid
    shift: ClassVar[float] = 0.0

    @property
    def bits(self) -> int:
        return self.grid.bits

    def apply(self, p: Tensor) -> Tensor:
        """The dequantized value of p > 0 [..., keys], multiplied by the largest of each row again."""
        largest = p.amax(-1, keepdim=True)
        return (self.grid.apply(p / largest) - self.grid.shift) * largest


def inner_grid(grid: Grid) -> ProbabilityGrid:
    """The grid that makes the codes, without what is done per head or per row around it."""
    found = grid.grid if isinstance(grid, HeadGrid | RowGrid) else grid
    assert isinstance(found, ProbabilityGrid)
    return found


def attention_grids(
    sites: Iterable[Site],
    samples: Mapping[str, ProductSample],
    widths: Iterable[int],
    softmax: SoftmaxCodes,
    softmax_rows: bool,
    granularity: Granularity,
) -> dict[tuple[str, int], Grid]:
    """(tensor name, bits) -> grid of the operands of attention products.

    Left out, so that `activations.activation_grids` serves them, are tensors that something else quantizes too.

    Args:
        samples: site name -> operands, for every attention product among `sites`.
        softmax, softmax_rows, granularity: the recipe's.
    """
    sites, widths = tuple(sites), tuple(widths)
    readers = Counter(n for s in sites for n in (s.input, s.second) if n is not None)
    grids: dict[tuple[str, int], Grid] = {}
    for site in sites:
        if site.second is None:
            continue
        sample = samples[site.name]
        for name, is_left in ((site.input, True), (site.second, False)):
            if readers[name] > 1:
                continue
            # Talking heads mix probabilities into values of both signs: those are ordinary operands.
            probabilities = is_left and site.role == "post_softmax" and float(sample.left.min()) >= 0
            for bits in widths:
                if probabilities:
                    grids[name, bits] = softmax_grid(sample, bits, softmax, softmax_rows)
                else:
                    grids[name, bits] = operand_grid(sample, is_left, bits, granularity)
    return grids


def operand_grid(
    sample: ProductSample, is_left: bool, bits: int, granularity: Granularity
) -> ActivationGrid | HeadGrid:
    """The grid of a query, key or value with the least error of the product.

    Args:
        granularity: "head" gives every head its own range, if the operands have a head axis.
    """
    x = sample.left if is_left else sample.right
    largest = x.abs().amax((0, 2, 3)).clamp_min(1e-12)
    if granularity == "tensor":
        largest = torch.full_like(largest, float(largest.max()))
    candidates = absmax_scale(FRACTIONS[1::2, None] * largest, bits)  # [fractions, heads]
    error = sample.left_error if is_left else sample.right_error
    by_head = torch.stack([error(fake_quantize(x, scales[:, None, None], bits)) for scales in candidates])
    if granularity == "tensor" or len(largest) == 1:
        return ActivationGrid(bits, float(candidates[int(by_head.sum(1).argmin()), 0]), 0.0)
    scales = candidates.gather(0, by_head.argmin(0, keepdim=True))[0]
    common = scales.log().mean().exp()
    return HeadGrid(ActivationGrid(bits, float(common), 0.0), tuple(float(f) for f in common / scales))


def softmax_grid(sample: ProductSample, bits: int, kind: SoftmaxCodes, rows: bool) -> ProbabilityGrid | RowGrid:
    """The grid of attention probabilities with the least error of the product, among those of `kind`.

    A kind that makes no sense at this width gives way to uniform codes: logarithms beyond `LOG_BITS`, and levels above
    6 bits, where there are no more integers than codes.

    Args:
        rows: normalize every row by its largest value first (`RowGrid`).
    """
    p, weight = sample.left, sample.right.square().sum(-1)[:, :, None, :].expand_as(sample.left)
    if rows:
        largest = p.amax(-1, keepdim=True)
        p, weight = p / largest, weight * largest.square()
    highest = float(p.max())

    def error(grid: ProbabilityGrid) -> float:
        moved = RowGrid(grid).apply(sample.left) if rows else grid.apply(p) - grid.shift
        handicap = FLOAT_HANDICAP if isinstance(grid, LogGrid) else 1.0
        return handicap * float(sample.left_error(moved).sum())

    kinds = ("uniform", "log2", "log-sqrt2", "levels") if kind == "auto" else (kind,)
    makers = [_MAKERS[k] for k in kinds if bits <= _WIDEST[k]] or [_uniform]
    best = min((make(bits, r * highest, p, weight) for make in makers for r in RANGES), key=error)
    return RowGrid(best) if rows else best


def _uniform(bits: int, largest: float, _: Tensor, __: Tensor) -> ProbabilityGrid:
    scale = float(torch.tensor(largest / (2**bits - 1)))
    if bits <= UNSIGNED_BITS:
        return UnsignedGrid(bits, scale)
    return ActivationGrid(bits, scale, code_range(bits)[0] * scale)


def _levels(bits: int, largest: float, p: Tensor, weight: Tensor) -> LevelGrid:
    scale = float(torch.tensor(largest / LEVEL_TOP))
    return LevelGrid(bits, scale, best_levels(p.flatten() / scale, weight.flatten(), 2**bits, LEVEL_TOP))


_MAKERS: dict[str, Callable[[int, float, Tensor, Tensor], ProbabilityGrid]] = {
    "uniform": _uniform,
    "log2": lambda bits, largest, _, __: LogGrid(bits, 1, float(torch.tensor(largest))),
    "log-sqrt2": lambda bits, largest, _, __: LogGrid(bits, 2, float(torch.tensor(largest))),
    "levels": _levels,
}
_WIDEST = {"uniform": 8, "log2": LOG_BITS[1], "log-sqrt2": LOG_BITS[2], "levels": UNSIGNED_BITS - 1}
