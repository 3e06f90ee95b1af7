"""Anchors, deltas and boxes as mmdetection counts them; boxes are [n, 4]: left, top, right, bottom in pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the anchors at a place."""
_SCALE = 8
_LARGEST_GROWTH = abs(math.log(16 / 1000))
_FINEST = 56


def anchors(height: int, width: int, stride: int) -> Tensor:
    """Returns the anchors of a map, [height * width * 3, 4], by row, column and ratio. The first place is at (0, 0)."""
    side = stride * _SCALE
    roots = torch.tensor(RATIOS).sqrt()
    half = torch.stack([side / roots, side * roots], 1) / 2
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([columns, rows, columns, rows], -1).reshape(-1, 1, 4) * stride
    return (places + torch.cat([-half, half], 1)).reshape(-1, 4)


def decode(boxes: Tensor, deltas: Tensor, stds: tuple[float, float, float, float]) -> Tensor:
    """Moves boxes by deltas [n, 4] of their centre, by their size, and of the logarithm of their size.

    Args:
        stds: what the deltas are multiplied by.
    """
    deltas = deltas * deltas.new_tensor(stds)
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + deltas[:, :2] * size
    half = size * deltas[:, 2:].clamp(-_LARGEST_GROWTH, _LARGEST_GROWTH).exp() / 2
    return torch.cat([centre - half, centre + half], 1)


def levels(boxes: Tensor, count: int) -> Tensor:
    """Returns the map that each box is looked up on, int64 [n]: 0 up to 112 pixels, one more each time they double."""
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    return (size / _FINEST + 1e-6).log2().floor().clamp(0, count - 1).long()
