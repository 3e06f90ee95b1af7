"""Cells: the tokens or heads of a component's tensor, which maps are made of and patches replace."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qvit_deploy.patching.components import Component

Tensor = torch.Tensor


def count(component: Component, tensor: Tensor, batch: int) -> int:
    """Counts the cells per image of `tensor`, which holds `batch` images."""
    return tensor.shape[1] if component.kind == "head" else tensor.numel() // (batch * tensor.shape[-1])


def sums(component: Component, tensor: Tensor, batch: int) -> Tensor:
    """Sums over each cell of `tensor`: [batch, cells]."""
    view = _view(component, tensor, batch)
    return view.sum((1, 3)) if component.kind == "head" else view.sum(-1)


def patched(component: Component, base: Tensor, source: Tensor, cells: Sequence[int]) -> Tensor:
    """Returns `base`, which holds len(cells) images or more, with cell `cells[i]` of image i replaced by that of
    `source`, which holds one image."""
    batch = base.shape[0] // source.shape[0]
    result = base.clone()
    target, new = _view(component, result, batch), _view(component, source, 1)
    for image, cell in enumerate(cells):
        if component.kind == "head":
            target[image, :, cell] = new[0, :, cell]
        else:
            target[image, cell] = new[0, cell]
    return result


def assign(component: Component, target: Tensor, source: Tensor, chosen: Sequence[int]) -> None:
    """Copies the cells `chosen` of `source` into `target`, of the same shape, for all of its images."""
    if component.kind == "head":
        target[:, chosen] = source[:, chosen]
    else:
        _view(component, target, target.shape[0])[:, chosen] = _view(component, source, source.shape[0])[:, chosen]


def _view(component: Component, tensor: Tensor, batch: int) -> Tensor:
    """Returns [batch, windows, heads, rest] of a head's tensor, [batch, tokens, channels] of any other."""
    if component.kind == "head":
        return tensor.reshape(batch, -1, tensor.shape[1], tensor.shape[2] * tensor.shape[3])
    return tensor.reshape(batch, -1, tensor.shape[-1])


MOST_PREFIX = 32
"""Class, distillation and register tokens in front of the patches; more are taken for another layout."""


def token_grid(tokens: int, height: int, width: int) -> tuple[int, int, int] | None:
    """Returns (tokens in front, rows, columns) of `tokens` on an image [height, width], patches being square, or None.

    Of the grids of whole square patches that fit, the largest is taken: what is left over are class, distillation and
    register tokens.
    """
    sizes = [p for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0]
    grids = [(height // p) * (width // p) for p in sizes]
    fitting = [(grid, p) for grid, p in zip(grids, sizes, strict=True) if tokens - MOST_PREFIX <= grid <= tokens]
    if not fitting:
        return None
    grid, patch = max(fitting)
    return tokens - grid, height // patch, width // patch
