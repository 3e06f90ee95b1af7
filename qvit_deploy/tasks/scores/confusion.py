"""Classes of pixels against labels: counts that add up over images, and what is read off them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion(predicted: NDArray[Any], labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts pixels by (label, predicted class), int64 [classes, classes]; both arrays hold 0 to classes - 1."""
    pairs = labels.astype(np.int64).ravel() * classes + predicted.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Returns the mean over classes of intersection over union; classes in neither labels nor predictions are left
    out, as is usual (mmsegmentation's nan_to_num=None). NaN without any pixel."""
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    present = union > 0
    return float((counts.diagonal()[present] / union[present]).mean()) if present.any() else float("nan")


def pixel_accuracy(counts: NDArray[np.int64]) -> float:
    """Returns the share of pixels that are of their label's class; NaN without any pixel."""
    total = counts.sum()
    return float(counts.trace() / total) if total else float("nan")
