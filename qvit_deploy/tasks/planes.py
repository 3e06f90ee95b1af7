"""Maps of a model laid over label maps of another size, as images are resized: pixel centres at half numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.data.labels.maps import LabelMap


def interpolated(maps: NDArray[Any], label: LabelMap) -> tuple[NDArray[Any], NDArray[Any]]:
    """Interpolates `maps` [channels, h, w] linearly at the pixels of a label map that the model sees.

    Equal to torch's `interpolate(mode="bilinear", align_corners=False)` where it sees all.

    Returns (float32 [channels, H, W], the labels there [H, W]).
    """
    rows = label.window.rows(label.values.shape[0], maps.shape[1])
    columns = label.window.columns(label.values.shape[1], maps.shape[2])
    values: NDArray[Any] = maps.astype(np.float32, copy=False)
    down = rows.share[:, None]
    values = values[:, rows.low] * (1 - down) + values[:, rows.high] * down
    values = values[:, :, columns.low] * (1 - columns.share) + values[:, :, columns.high] * columns.share
    return values, label.values[rows.seen, columns.seen]


def nearest(plane: NDArray[Any], label: LabelMap) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the numbers of `plane` [h, w] at the pixels of a label map that the model sees, and the labels there."""
    rows = label.window.rows(label.values.shape[0], plane.shape[0])
    columns = label.window.columns(label.values.shape[1], plane.shape[1])
    return plane[rows.nearest[:, None], columns.nearest], label.values[rows.seen, columns.seen]
