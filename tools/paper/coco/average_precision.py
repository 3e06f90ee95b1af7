"""COCO's average precision of boxes and masks, by its own reference implementation, pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def average_precision(
    annotations: Path, results: Sequence[Mapping[str, Any]], images: Sequence[int]
) -> tuple[float, float]:
    """Returns AP of boxes and of masks over IoU 0.5 to 0.95, from 0 to 1, on the images of these ids."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if not results:  # pycocotools refuses none
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        found = truth.loadRes([dict(each) for each in results])
        precisions = []
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(truth, found, kind)
            evaluation.params.imgIds = list(images)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            precisions.append(float(evaluation.stats[0]))
    return precisions[0], precisions[1]
