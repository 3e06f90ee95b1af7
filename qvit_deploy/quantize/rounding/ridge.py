"""How far the regression against quantized inputs may move the weights: cross-validated, layer by layer.

Early layers gain by it, since what outliers cost there is the same on all images. Where the error of the inputs is
noise that the layer cannot undo, regression fits the calibration images alone and does harm on all others: 64 images
of 65 tokens do not determine 1,536 inputs. No damping is right for both, so each layer tries some: fitted to one half
of the images, judged by the error on the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qvit_deploy.quantize.rounding.compensate import GramAccumulator, pooled, regress

SHARES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
"""Dampings tried, as shares of the mean diagonal of the covariance: from nearly no regression to nearly all of it."""

COLUMNS = 64
"""Outputs an error is measured on: random sums of all of them when there are more, which keep its expectation."""


def cross_validated_share(weight: Tensor, halves: tuple[GramAccumulator, GramAccumulator], seed: int) -> float:
    """Returns the damping for `compensate.regress` with the least error on images it was not fitted to; infinity: none
    helps.

    The penalty that suits half of the rows is half the share of the covariance of all of them.

    Args:
        weight: float32 [in, out].
        halves: second moments of two disjoint halves of the calibration images.
    """
    if weight.shape[1] > COLUMNS:
        signs = torch.randint(0, 2, (weight.shape[1], COLUMNS), generator=torch.Generator().manual_seed(seed))
        weight = weight @ (2 * signs - 1).float() / math.sqrt(COLUMNS)
    # Single precision: with 3 percent of the diagonal added, no factorisation here is near its limits.
    moments = [pooled([half], torch.float32) for half in halves]
    pairs = [(moments[0], moments[1]), (moments[1], moments[0])]
    targets = [held_out.cross @ weight for _, held_out in pairs]

    def error(share: float) -> float:
        """||X W - X' W*||^2 of the half not fitted to, but for a constant."""
        total = 0.0
        for (fitted, held_out), target in zip(pairs, targets, strict=True):
            regressed = regress(weight, fitted, share)
            total += float((regressed * (held_out.covariance @ regressed - 2 * target)).sum(dtype=torch.float64))
        return total

    best, least = math.inf, error(math.inf)
    for share in SHARES:
        current = error(share)
        if not current < least:
            break
        best, least = share, current
    return best / 2
