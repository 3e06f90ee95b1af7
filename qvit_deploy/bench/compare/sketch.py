"""Computes quantiles of a stream of samples in constant memory.

A histogram whose bins grow by a constant factor, so that every quantile has the same bounded relative error whatever
the range of the samples (DDSketch: Masson, Rim and Lee, PVLDB 12(12), 2019).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

GROWTH = 1.001
"""Ratio of a bin's ends: a quantile is within 0.05 % of a sample."""

LARGEST_NS = 10**14
"""A bit more than a day; longer samples are counted in the last bin."""

BINS = math.ceil(math.log(LARGEST_NS) / math.log(GROWTH)) + 1

BUFFERED = 4096
"""Samples collected until numpy bins them together."""


class Sketch:
    """A histogram of samples, which are integer nanoseconds > 0. Its size does not depend on their number."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)
        self._buffer: list[int] = []
        self._sum = 0

    def add(self, nanoseconds: int) -> None:
        """Adds a sample. Raises ValueError unless it is positive: the clock, or the code that reads it, is broken."""
        if nanoseconds <= 0:
            raise ValueError(f"a run took {nanoseconds} ns")
        self._buffer.append(nanoseconds)
        if len(self._buffer) == BUFFERED:
            self._flush()

    def merge(self, other: Sketch) -> None:
        """Adds the samples of `other`."""
        other._flush()
        self._counts += other._counts
        self._sum += other._sum

    def clear(self) -> None:
        """Removes all samples."""
        self._buffer.clear()
        self._counts[:] = 0
        self._sum = 0

    @property
    def count(self) -> int:
        """Returns the number of samples."""
        self._flush()
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """Returns the exact mean, in nanoseconds."""
        return self._sum / self.count

    def bins(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (indices of the bins with samples, their counts), int64 [bins] each."""
        self._flush()
        used = np.flatnonzero(self._counts)
        return used, self._counts[used]

    def as_dict(self) -> dict[str, Any]:
        """Converts to JSON values, to be sent to another process."""
        used, counts = self.bins()
        return {"bins": used.tolist(), "counts": counts.tolist(), "sum": self._sum}

    @classmethod
    def from_dict(cls, tree: dict[str, Any]) -> Sketch:
        """Restores a sketch from the result of `as_dict`."""
        sketch = cls()
        sketch._counts[tree["bins"]] = tree["counts"]
        sketch._sum = tree["sum"]
        return sketch

    def quantile(self, q: float) -> float:
        """Returns the nanoseconds below which the share q of all samples lies."""
        used, counts = self.bins()
        return float(quantile_of_bins(used, counts[None].astype(float), q)[0])

    def _flush(self) -> None:
        if not self._buffer:
            return
        index = np.log(np.asarray(self._buffer, float)) / math.log(GROWTH)
        np.add.at(self._counts, np.minimum(index.astype(np.int64), BINS - 1), 1)
        self._sum += sum(self._buffer)
        self._buffer.clear()


def quantile_of_bins(used: np.ndarray, counts: np.ndarray, q: float) -> np.ndarray:
    """Returns the quantile q of several histograms, nanoseconds [histograms].

    Within a bin, samples are assumed to spread evenly over its logarithm.

    Args:
        used: indices of bins, int64 [bins], ascending.
        counts: weight of every bin, float [histograms, bins]; no histogram is empty.
    """
    cumulative = np.cumsum(counts, axis=1)
    rank = q * cumulative[:, -1]
    # Rounding of the cumulative sum must not lead past the last bin, nor into one that is empty.
    column = np.minimum((cumulative < rank[:, None]).sum(1), counts.shape[1] - 1)
    rows = np.arange(len(counts))
    inside = counts[rows, column]
    share = np.clip((rank - (cumulative[rows, column] - inside)) / np.where(inside > 0, inside, 1), 0, 1)
    return np.asarray(np.power(GROWTH, used[column] + share))
