"""Edits that make a corrupt image of a clean one, on the input as the model takes it, as float32 [C, H, W].

They work after resizing and cropping, so that a region of whole patches changes the tokens in it and no other. None
depends on how channels were normalised: all commute with a scale and an offset per channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from qvit_deploy.data.tokens import Tokens, by_token, token_grid
from qvit_deploy.errors import InputError

Image = NDArray[Any]


def as_taken(edited: Image, image: Image) -> Image:
    """Returns an edit of `image` in the type of that: rounded where it is of pixels, which have an end at 0 and 255."""
    return edited if image.dtype != np.uint8 else np.clip(np.rint(edited), 0, 255).astype(np.uint8)


def composite(background: Image, source: Image, mask: NDArray[np.bool_]) -> Image:
    """Replaces the pixels of `mask` [H, W] in `background` by those of `source`. Raises InputError if shapes differ."""
    if background.shape != source.shape or mask.shape != background.shape[1:] or mask.dtype != bool:
        raise InputError(
            f"a composite needs two images of one size and a boolean mask as large, got {list(background.shape)}, "
            f"{list(source.shape)} and {list(mask.shape)}"
        )
    return np.where(mask, source, background)


def swap_within(image: Image, region: Tokens, patch: int, rng: np.random.Generator) -> Image:
    """Exchanges the patches of `region`, one for one, with patches outside it.

    Both sides are drawn at random without repetition, as many as the smaller of them has.

    Raises:
        InputError: `region` is empty, covers everything, or is of another grid.
    """
    grid = token_grid(image.shape[1], image.shape[2], patch)
    if region.shape != grid:
        raise InputError(f"the region is {list(region.shape)} tokens, the image {list(grid)}")
    inside, outside = np.flatnonzero(region), np.flatnonzero(~region)
    count = min(len(inside), len(outside))
    if not count:
        raise InputError("a region whose patches are exchanged must hold some of the image's patches, not all")
    inside, outside = (rng.permutation(side)[:count] for side in (inside, outside))
    source = np.arange(region.size)
    source[inside], source[outside] = outside, inside
    patches = by_token(image, patch).reshape(len(image), -1, patch, patch)[:, source]
    swapped = patches.reshape(len(image), *grid, patch, patch).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(swapped.reshape(image.shape), dtype=np.float32)


def blur(image: Image, sigma: float) -> Image:
    """Blurs with a Gaussian of `sigma` pixels; the image is mirrored at its edges."""
    blurred: Image = gaussian_filter(image, (0, sigma, sigma), mode="reflect")
    return blurred


def noise(image: Image, strength: float, rng: np.random.Generator) -> Image:
    """Adds Gaussian noise of `strength` times each channel's standard deviation, without clipping."""
    spread = image.std(axis=(1, 2), keepdims=True)
    return (image + strength * spread * rng.standard_normal(image.shape)).astype(np.float32)
