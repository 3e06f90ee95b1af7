"""Planes of numbers against planes of numbers: depth, masks, and how a relative depth is brought to metres."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Align = Literal["none", "median", "affine"]

DELTA = 1.25
"""The ratio of depths within which delta1 counts a pixel as right (Eigen et al., arXiv 1406.2283)."""


class DepthErrors(NamedTuple):
    """Errors on the pixels of one image: mean |p - d| / d, share of max(p / d, d / p) < 1.25, mean |p - d|."""

    abs_rel: float
    delta1: float
    mae: float


def depth_errors(predicted: NDArray[Any], truth: NDArray[Any]) -> DepthErrors:
    """Returns the errors of `predicted` by `truth`, arrays of pixels of equal shape; all of `truth` is positive."""
    p, d = predicted.astype(np.float64), truth.astype(np.float64)
    difference = np.abs(p - d)
    # A depth that is not positive is no depth: infinitely wrong by the ratio.
    ratio = np.where(p > 0, np.maximum(p / d, d / np.where(p > 0, p, 1)), np.inf)
    return DepthErrors(float((difference / d).mean()), float((ratio < DELTA).mean()), float(difference.mean()))


def aligned(predicted: NDArray[Any], truth: NDArray[Any], align: Align) -> NDArray[np.float64]:
    """Brings predictions to the scale of `truth`.

    `median` multiplies by the ratio of medians (Zhou et al., arXiv 1704.07813); `affine` fits scale and shift by least
    squares (MiDaS, arXiv 1907.01341, for predictions known up to both).
    """
    p, d = predicted.astype(np.float64), truth.astype(np.float64)
    if align == "median":
        middle = float(np.median(p))
        return p * (float(np.median(d)) / middle) if middle else p
    if align == "affine":
        spread = p - p.mean()
        power = float((spread**2).sum())
        slope = float((spread * (d - d.mean())).sum()) / power if power else 0.0
        return slope * spread + float(d.mean())
    return p


def mask_counts(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns int64 [2], the pixels in both masks and in either; they add up over images."""
    return np.array([(predicted & truth).sum(), (predicted | truth).sum()], np.int64)


def iou(counts: NDArray[np.int64]) -> float:
    """Returns intersection over union of `mask_counts`; 1 when both masks are empty, which are equal then."""
    return float(counts[0] / counts[1]) if counts[1] else 1.0
