"""Pads batches to the size that a graph with a fixed batch takes."""

from __future__ import annotations

import numpy as np


def padded(images: np.ndarray, static_batch: int | None) -> np.ndarray:
    """Repeats `images` [n, ...] from the first on up to `static_batch`; returns them as they are where it is None.

    Raises:
        ValueError: there are more images than `static_batch`, or none.
    """
    if static_batch is None or static_batch == len(images):
        return images
    if not 0 < len(images) < static_batch:
        raise ValueError(f"{len(images)} images do not go into a batch of {static_batch}")
    return np.resize(images, (static_batch, *images.shape[1:]))
