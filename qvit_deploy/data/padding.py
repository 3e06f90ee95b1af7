"""Pads batches to the size that a graph with a fixed batch takes."""

from __future__ import annotations

import numpy as np

from qvit_deploy.graph.examples import Examples


def padded(batch: Examples[np.ndarray], static_batch: int | None) -> Examples[np.ndarray]:
    """Repeats examples from the first on up to `static_batch`; returns them as they are where it is None.

    Raises:
        ValueError: there are more examples than `static_batch`, or none.
    """
    if static_batch is None or static_batch == len(batch):
        return batch
    if not 0 < len(batch) < static_batch:
        raise ValueError(f"{len(batch)} images do not go into a batch of {static_batch}")
    return batch.cycled(static_batch)
