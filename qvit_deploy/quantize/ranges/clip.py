"""Clipping ranges: the scale of a grid that minimises squared error.

A wide range keeps outliers and rounds coarsely, a narrow one saturates. Squared error decides: a massive activation
that would be clipped costs more than all the rounding it saves, so such activations survive here, where percentile
clipping (RepQ-ViT) cuts them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvit_deploy.formats.format import Format

FRACTIONS = torch.cat([torch.linspace(0.08, 0.6, 14), torch.linspace(0.62, 1.02, 21)])
"""Candidate ranges, as fractions of the largest magnitude. Slightly above 1 lets the largest value round down."""

CHANNEL_FRACTIONS = torch.linspace(0.16, 1.0, 22)


def activation_scale(rows: Tensor, weights: Tensor, importance: Tensor, absmax: float, format: Format) -> Tensor:
    """Returns the per-tensor scale with the least importance-weighted squared error.

    Args:
        rows: sampled activations, float32 [rows, channels], the extreme rows among them.
        weights: weight of each row's error, [rows].
        importance: weight of each channel's error, [channels]: the squared norm of the weights that read it, so
            that the sum approximates the error of the consumer's output (diagonal of W W^T).
        absmax: largest magnitude ever seen.
        format: of the codes.

    Returns: scalar float32.
    """
    scales = format.choose_scale(FRACTIONS * max(absmax, 1e-12))
    errors = torch.stack([(weights @ (format.fake_quantize(rows, s) - rows).square_()) @ importance for s in scales])
    return scales[int(errors.argmin())]


def weight_scale(weight: Tensor, format: Format, importance: Tensor | None = None) -> Tensor:
    """Returns the per-output-channel scales with the least squared error.

    Args:
        weight: [in, out] float32.
        importance: [in], mean square of each input channel, weighting its error; equal weights when None.

    Returns: [out] float32.
    """
    absmax = weight.abs().amax(0)
    best_error = torch.full_like(absmax, float("inf"))
    best = format.choose_scale(absmax)
    column = None if importance is None else importance[:, None]
    for fraction in FRACTIONS[FRACTIONS >= 0.4]:
        scale = format.choose_scale(absmax * fraction)
        error = (format.fake_quantize(weight, scale) - weight).square_()
        total = (error if column is None else error.mul_(column)).sum(0)
        better = total < best_error
        best_error = torch.where(better, total, best_error)
        best = torch.where(better, scale, best)
    return best


def channel_ranges(rows: Tensor, weights: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Returns half width and centre of every channel's own range with the least weighted squared error of b-bit
    rounding.

    Every fraction of the range is tried around the middle of the extremes, around the median and half way between: a
    tail on one side is then cut on that side only.

    Args:
        rows: float32 [rows, channels].
        weights: of each row's error, [rows].

    Returns: float32 [channels] each; the width is 0 for a constant channel.
    """
    levels = 2 ** (bits - 1)
    low, high = rows.amin(0), rows.amax(0)
    middle, median = (low + high) / 2, rows.median(0).values
    best = torch.full_like(low, float("inf"))
    width, centre = (high - low) / 2, middle
    for towards in (0.0, 0.5, 1.0):
        around = torch.lerp(middle, median, towards)
        reach = torch.maximum(high - around, around - low)
        for fraction in CHANNEL_FRACTIONS:
            step = (reach * fraction / (levels - 0.5)).clamp_min(1e-12)
            rounded = ((rows - around) / step).round_().clamp_(-levels, levels - 1).mul_(step).add_(around)
            error = weights @ rounded.sub_(rows).square_()
            better = error < best
            best = torch.where(better, error, best)
            width = torch.where(better, reach * fraction, width)
            centre = torch.where(better, around, centre)
    return width, centre
