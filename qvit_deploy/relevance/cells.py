"""Cells: the tokens or heads of a component's tensor, which maps are made of and patches replace."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qvit_deploy.relevance.components import Component

Tensor = torch.Tensor


def count(component: Component, tensor: Tensor, batch: int) -> int:
    """Cells per image of `tensor`, which holds `batch` images."""
    return tensor.shape[1] if component.kind == "head" else tensor.numel() // (batch * tensor.shape[-1])


def sums(component: Component, tensor: Tensor, batch: int) -> Tensor:
    """The sum over each cell of `tensor`, [batch, cells]."""
    view = _view(component, tensor, batch)
    return view.sum((1, 3)) if component.kind == "head" else view.sum(-1)


def patched(component: Component, base: Tensor, source: Tensor, cells: Sequence[int]) -> Tensor:
    """`base`, which holds len(cells) images or more, with cell `cells[i]` of image i taken from `source`, which holds
    one image."""
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
    """[batch, windows, heads, rest] of a head's tensor, [batch, tokens, channels] of any other."""
    if component.kind == "head":
        return tensor.reshape(batch, -1, tensor.shape[1], tensor.shape[2] * tensor.shape[3])
    return tensor.reshape(batch, -1, tensor.shape[-1])
