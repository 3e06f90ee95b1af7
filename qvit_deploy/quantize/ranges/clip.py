"""Clipping ranges: the scale of a grid that minimises squared error.

A wide range keeps outliers and rounds coarsely, a narrow one saturates. Squared error decides: a massive activation
that would be clipped costs more than all the rounding it saves, so such activations survive here, where percentile
clipping (RepQ-ViT) cuts them.

A sample of few rows, such as the one row an image of a pooled head, does not show its tails: the next row passes the
largest of n values with probability 1 / (n + 1), whatever their distribution, and then by an amount that is
exponential for the usual tails (Pickands 1975). Every candidate range is charged with what that costs in expectation
(`beyond`), so that few rows get head-room and many do not need it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qvit_deploy.formats.format import Format

FRACTIONS = torch.cat([torch.linspace(0.08, 0.6, 14), torch.linspace(0.62, 1.02, 21)])
"""Candidate ranges, as fractions of the largest magnitude. Slightly above 1 lets the largest value round down."""

CHANNEL_FRACTIONS = torch.linspace(0.16, 1.0, 22)

HEAD_ROOM = torch.linspace(1.05, 2.0, 20)
"""Further candidates where rows are few."""

FEW_ROWS = 64
"""Samples of at most so many rows are charged for their tails: those of pooled heads, which have a row an image and two
extreme ones a batch: 60 for 48 images in batches of 8, but 80 for 64. At the heads of the shipped ViT and Swin, on
calibration images that the ranges were not fitted to, head-room gains 18 to 22 dB of the head's output at 8 bits with
20 and 40 rows, and would still gain 13 to 14 dB with 80 and 5 to 6 dB with 320 (5 draws each); at 4 bits 2 to 6 dB, and
within 0.3 dB from 120 rows on. Tensors with a row a token have more, and `calibrate.observe` keeps the extremes of all
their rows."""


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
    few = len(rows) <= FEW_ROWS
    fractions = torch.cat([FRACTIONS, HEAD_ROOM]) if few else FRACTIONS
    scales = format.choose_scale(fractions * max(absmax, 1e-12))
    errors = torch.stack([(weights @ (format.fake_quantize(rows, s) - rows).square_()) @ importance for s in scales])
    if few:
        tails = Tails(rows, weights, torch.zeros(rows.shape[1]))
        largest = rows.abs().amax(0)
        outside = tails.beyond(largest, (scales * format.range[1])[:, None])
        errors += weights.sum() * torch.stack([squares @ importance for squares in outside])
    return scales[int(errors.argmin())]


class Tails:
    """What the values of a channel that a sample does not show add to the squared error of a range.

    Args:
        rows: float32 [rows, channels].
        weights: of each row, [rows].
        centre: what the spread of each channel is taken around, [channels].
    """

    def __init__(self, rows: Tensor, weights: Tensor, centre: Tensor) -> None:
        spread = (weights @ (rows - centre).square() / weights.sum().clamp_min(1e-30)).sqrt()
        self.count = len(rows)
        # The mean excess over the largest of n values of a normal distribution.
        self.scale = (spread / math.sqrt(2 * math.log(max(self.count, 2)))).clamp_min(1e-12)

    def beyond(self, largest: Tensor, end: Tensor) -> Tensor:
        """Returns the expected squared distance from `end` of a new value of each channel that passes `largest`, times
        the probability that one does, [..., channels].

        The excess e over `largest` is exponential with mean b: E (e + largest - end)^2 where that is positive.

        Args:
            largest: of the sample, [channels].
            end: of candidate ranges, [..., channels], or one for all channels.
        """
        room, b = end - largest, self.scale
        inside = room.square() - 2 * room * b + 2 * b.square()
        outside = 2 * b.square() * (-room.clamp_min(0) / b).exp()
        return torch.where(room < 0, inside, outside) / (self.count + 1)


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
    levels, few = 2 ** (bits - 1), len(rows) <= FEW_ROWS
    low, high = rows.amin(0), rows.amax(0)
    fractions = torch.cat([CHANNEL_FRACTIONS, HEAD_ROOM]) if few else CHANNEL_FRACTIONS
    tails = Tails(rows, weights, weights @ rows / weights.sum().clamp_min(1e-30))
    middle, median = (low + high) / 2, rows.median(0).values
    best = torch.full_like(low, float("inf"))
    width, centre = (high - low) / 2, middle
    for towards in (0.0, 0.5, 1.0):
        around = torch.lerp(middle, median, towards)
        reach = torch.maximum(high - around, around - low)
        ends = reach * fractions[:, None]
        if few:
            outside = tails.beyond(high, around + ends) + tails.beyond(-low, ends - around)
        for i, end in enumerate(ends):
            step = (end / (levels - 0.5)).clamp_min(1e-12)
            rounded = ((rows - around) / step).round_().clamp_(-levels, levels - 1).mul_(step).add_(around)
            error = weights @ rounded.sub_(rows).square_()
            if few:
                error += weights.sum() * outside[i]
            better = error < best
            best = torch.where(better, error, best)
            width = torch.where(better, end, width)
            centre = torch.where(better, around, centre)
    return width, centre
