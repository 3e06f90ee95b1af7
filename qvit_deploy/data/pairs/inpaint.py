"""Fills a region smoothly from its border: the object goes, the background stays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from qvit_deploy.errors import InputError


def inpaint(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Replaces the pixels of `mask` [H, W] in `image` [C, H, W] by the solution of Laplace's equation.

    Every filled pixel is the mean of its neighbours above, below, left and right, as far as they lie in the image: the
    pixels around the mask are the boundary values, and no gradient crosses the edge of the image. So no filled value
    exceeds those around the mask. All other pixels stay bit for bit.

    Raises:
        InputError: the mask is empty, leaves no border to fill from, or has another size.
    """
    if mask.shape != image.shape[1:] or mask.dtype != bool:
        raise InputError(f"a mask for a {image.shape[1:]} image must be boolean and as large, got {mask.shape}")
    if not mask.any() or mask.all():
        raise InputError("a region to inpaint must hold some pixels and leave some to fill them from")
    unknown = np.full(mask.shape, -1)
    unknown[mask] = np.arange(mask.sum())
    count = int(mask.sum())
    degree = np.zeros(count)
    right = np.zeros((count, len(image)))
    rows, columns = [], []
    # Both ends of every edge between neighbouring pixels: the filled one gets an equation, the other a coefficient if
    # it is filled too, a boundary value if not.
    vertical = (np.s_[:-1, :], np.s_[1:, :])
    horizontal = (np.s_[:, :-1], np.s_[:, 1:])
    for here, there in (vertical, vertical[::-1], horizontal, horizontal[::-1]):
        filled = mask[here]
        own, other = unknown[here][filled], unknown[there][filled]
        np.add.at(degree, own, 1)
        inner = other >= 0
        rows.append(own[inner])
        columns.append(other[inner])
        boundary = image[:, there[0], there[1]][:, filled].T.astype(np.float64)
        np.add.at(right, own[~inner], boundary[~inner])
    i, j = np.concatenate(rows), np.concatenate(columns)
    laplacian = sparse.diags_array(degree) - sparse.coo_array((np.ones(len(i)), (i, j)), shape=(count, count))
    solution = splu(sparse.csc_matrix(laplacian), permc_spec="MMD_AT_PLUS_A").solve(right)
    result = image.copy()
    result[:, mask] = solution.T
    return result
