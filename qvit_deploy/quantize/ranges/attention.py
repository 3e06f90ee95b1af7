"""Grids for the operands of attention products, chosen by the error they make in the product's output.

Both operands are data, so that what an error costs depends on the other one: attention sinks, for instance, are keys
with probabilities near 1 and values near 0. Candidates are therefore compared on whole products of a few images
(`calibrate.products`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from qvit_deploy.calibrate.products import ProductSample
from qvit_deploy.formats.format import Format
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.formats.grids.probabilities import (
    LEVEL_TOP,
    LOG_BITS,
    LevelGrid,
    LogGrid,
    UnsignedGrid,
)
from qvit_deploy.formats.grids.scaled import HeadGrid, ProbabilityGrid, RowGrid
from qvit_deploy.formats.integer import UNSIGNED_BITS
from qvit_deploy.graph.sites import Site
from qvit_deploy.quantize.ranges.clip import FRACTIONS
from qvit_deploy.quantize.ranges.levels import best_levels
from qvit_deploy.recipe import Granularity, SoftmaxCodes

RANGES = tuple(2 ** (-i / 4) for i in range(9))
"""Candidate ranges of probabilities, as fractions of the largest ever seen."""

FLOAT_HANDICAP = 1.25
"""`auto` takes logarithmic codes, whose product runs in floating point, only if those on integers have this many times
their squared error: they are close where levels fit (DINOv2 ViT-S at 4 bits: 0.058 against 0.060 of the output)."""


def attention_grids(
    sites: Iterable[Site],
    samples: Mapping[str, ProductSample],
    formats: Iterable[Format],
    softmax: SoftmaxCodes,
    softmax_rows: bool,
    granularity: Granularity,
) -> dict[tuple[str, Format], Grid]:
    """Returns (tensor name, format) -> grid of the operands of attention products.

    Left out, so that `activations.activation_grids` serves them, are tensors that something else quantizes too.

    Args:
        samples: site name -> operands, for every attention product among `sites`.
        softmax, softmax_rows, granularity: the recipe's.
    """
    sites, formats = tuple(sites), tuple(formats)
    readers = Counter(n for s in sites for n in (s.input, s.second) if n is not None)
    grids: dict[tuple[str, Format], Grid] = {}
    for site in sites:
        if site.second is None:
            continue
        sample = samples[site.name]
        for name, is_left in ((site.input, True), (site.second, False)):
            if readers[name] > 1:
                continue
            # Talking heads mix probabilities into values of both signs: those are ordinary operands.
            probabilities = is_left and site.role == "post_softmax" and float(sample.left.min()) >= 0
            for format in formats:
                if probabilities and format.integer:
                    grids[name, format] = softmax_grid(sample, format, softmax, softmax_rows)
                else:
                    grids[name, format] = operand_grid(sample, is_left, format, granularity)
    return grids


def operand_grid(
    sample: ProductSample, is_left: bool, format: Format, granularity: Granularity
) -> ActivationGrid | HeadGrid:
    """Returns the grid of a query, key or value with the least error of the product.

    Args:
        granularity: "head" gives every head its own range, if the operands have a head axis.
    """
    x = sample.left if is_left else sample.right
    largest = x.abs().amax((0, 2, 3)).clamp_min(1e-12)
    if granularity == "tensor":
        largest = torch.full_like(largest, float(largest.max()))
    candidates = format.choose_scale(FRACTIONS[1::2, None] * largest)  # [fractions, heads]
    error = sample.left_error if is_left else sample.right_error
    by_head = torch.stack([error(format.fake_quantize(x, scales[:, None, None])) for scales in candidates])
    if granularity == "tensor" or len(largest) == 1:
        return ActivationGrid(format, float(candidates[int(by_head.sum(1).argmin()), 0]))
    scales = candidates.gather(0, by_head.argmin(0, keepdim=True))[0]
    common = scales.log().mean().exp()
    return HeadGrid(ActivationGrid(format, float(common)), tuple(float(f) for f in common / scales))


def softmax_grid(sample: ProductSample, format: Format, kind: SoftmaxCodes, rows: bool) -> ProbabilityGrid | RowGrid:
    """Returns the grid of attention probabilities with the least error of the product, among those of `kind`.

    A kind that makes no sense at this width gives way to uniform codes: logarithms beyond `LOG_BITS`, and levels above
    6 bits, where there are no more integers than codes.

    Args:
        format: one of integers; the grids have as many codes.
        rows: normalize every row by its largest value first (`RowGrid`).
    """
    p, weight = sample.left, sample.right.square().sum(-1)[:, :, None, :].expand_as(sample.left)
    if rows:
        largest = p.amax(-1, keepdim=True)
        p, weight = p / largest, weight * largest.square()
    highest = float(p.max())

    def error(grid: ProbabilityGrid) -> float:
        quantized = RowGrid(grid).apply(sample.left) if rows else grid.apply(p) - grid.shift
        handicap = 1.0 if grid.on_integers else FLOAT_HANDICAP
        return handicap * float(sample.left_error(quantized).sum())

    kinds = ("uniform", "log2", "log-sqrt2", "levels") if kind == "auto" else (kind,)
    makers = [_MAKERS[k] for k in kinds if format.bits <= _WIDEST[k]] or [_uniform]
    best = min((make(format, r * highest, p, weight) for make in makers for r in RANGES), key=error)
    return RowGrid(best) if rows else best


def _uniform(format: Format, largest: float, _: Tensor, __: Tensor) -> ProbabilityGrid:
    scale = float(torch.tensor(largest / (2**format.bits - 1)))
    if format.bits <= UNSIGNED_BITS:
        return UnsignedGrid(format, scale)
    return ActivationGrid(format, scale, format.range[0] * scale)


def _levels(format: Format, largest: float, p: Tensor, weight: Tensor) -> LevelGrid:
    scale = float(torch.tensor(largest / LEVEL_TOP))
    return LevelGrid(format, scale, best_levels(p.flatten() / scale, weight.flatten(), 2**format.bits, LEVEL_TOP))


_MAKERS: dict[str, Callable[[Format, float, Tensor, Tensor], ProbabilityGrid]] = {
    "uniform": _uniform,
    "log2": lambda format, largest, _, __: LogGrid(format, 1, float(torch.tensor(largest))),
    "log-sqrt2": lambda format, largest, _, __: LogGrid(format, 2, float(torch.tensor(largest))),
    "levels": _levels,
}
_WIDEST = {"uniform": 8, "log2": LOG_BITS[1], "log-sqrt2": LOG_BITS[2], "levels": UNSIGNED_BITS - 1}
