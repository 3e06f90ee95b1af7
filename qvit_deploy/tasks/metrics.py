"""How far two tensors are apart."""

from __future__ import annotations

import numpy as np


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns the signal to quantization noise ratio of `other` against `reference`, 10 log10(sum y^2 / sum (y -
    y')^2), in dB; 200 when they are equal."""
    noise = float(np.square(reference - other, dtype=np.float64).sum())
    signal = float(np.square(reference, dtype=np.float64).sum())
    return min(200.0, 10 * float(np.log10(signal / noise))) if noise > 0 and signal > 0 else 200.0


def relative_error(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference of the two, relative to the largest magnitude in `reference`."""
    return float(np.abs(other - reference).max() / max(np.abs(reference).max(), 1e-12))


def differs(values: np.ndarray) -> bool:
    """Returns whether `values` [n, ...] are not the same for every example."""
    return bool((values != values[:1]).any())
