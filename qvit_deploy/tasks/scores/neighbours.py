"""Embeddings: their angles, and which examples are each other's nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1024
"""Rows of the matrix of similarities that exist at once."""


def cosines(reference: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Returns the cosine between the vectors [n, dim] of each row, float64 [n]; 0 where one of them is zero."""
    cosine: NDArray[np.float64] = (_unit(reference) * _unit(other)).sum(-1)
    return cosine


def nearest(vectors: NDArray[Any], k: int) -> NDArray[np.intp]:
    """Returns for every vector of [n, dim] the indices [n, k] of those with the largest cosine, the nearest first.

    A vector is not its own neighbour; `k` is at most n - 1. Equal cosines are in the order of the vectors.
    """
    unit = _unit(vectors)
    neighbours = np.empty((len(unit), k), np.intp)
    for start in range(0, len(unit), _BLOCK):
        similar = unit[start : start + _BLOCK] @ unit.T
        rows = np.arange(len(similar))
        similar[rows, start + rows] = -np.inf
        neighbours[start : start + _BLOCK] = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return neighbours


def shared(reference: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    """Returns the mean share of neighbours [n, k] that both name, in any order."""
    same = (reference[:, :, None] == other[:, None, :]).any(2)
    return float(same.mean())


def knn_accuracy(neighbours: NDArray[np.intp], labels: NDArray[np.int64]) -> float:
    """Returns the share of examples whose label most of their neighbours [n, k] have: leave-one-out accuracy.

    Of labels with equally many neighbours the one that has the nearest of them is chosen.
    """
    voted = labels[neighbours]
    votes = (voted[:, :, None] == voted[:, None, :]).sum(2)  # of the label at each place, so the first largest wins
    chosen = voted[np.arange(len(voted)), votes.argmax(1)]
    return float((chosen == labels).mean())


def _unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = wide / np.where(length > 0, length, 1)
    return unit
