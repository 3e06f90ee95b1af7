"""Images as batches of examples."""

from __future__ import annotations

import torch

from qvit_deploy.graph.examples import Examples


def image_batches(images: torch.Tensor, size: int) -> list[Examples[torch.Tensor]]:
    """Returns `images` [n, C, H, W] in batches of `size`; the last may be smaller."""
    return [Examples.images(batch) for batch in images.split(size)]
