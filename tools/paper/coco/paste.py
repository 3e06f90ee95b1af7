"""Brings masks of boxes into the picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

THRESHOLD = 0.5


def paste(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns bool [n, height, width]: where a mask, stretched bilinearly over its box, is at least a half.

    Args:
        masks: probabilities [n, h, w].
        boxes: [n, 4] in pixels of the picture.
        size: (height, width) of the picture.
    """
    height, width = size
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool)
    for mask, box, into in zip(masks, boxes, pasted, strict=True):
        left, top = (max(int(value) - 1, 0) for value in box[:2].floor())
        right, bottom = (min(int(v) + 1, side) for v, side in zip(box[2:].ceil(), (width, height), strict=True))
        if right <= left or bottom <= top:
            continue
        columns = _place(torch.arange(left, right), box[0], box[2])
        rows = _place(torch.arange(top, bottom), box[1], box[3])
        grid = torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], -1)
        values = grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        into[top:bottom, left:right] = values >= THRESHOLD
    return pasted


def _place(pixels: Tensor, start: Tensor, stop: Tensor) -> Tensor:
    """Returns the pixels' centres on an axis that goes from -1 to 1 over the box."""
    return (pixels + 0.5 - start) / (stop - start).clamp(min=1e-6) * 2 - 1
