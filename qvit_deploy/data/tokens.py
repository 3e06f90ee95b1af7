"""Maps between pixels and the patch grid of a model: which token sees which pixels.

Images are [C, H, W] as the model takes them. Token (r, c) sees the pixels [r p, (r + 1) p) x [c p, (c + 1) p), p the
patch of the embedding (for Swin that of the first stage), so an edit of whole patches leaves every other token's
embedding as it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.errors import InputError

Tokens = NDArray[np.bool_]
"""A set of tokens, boolean [rows, columns]."""


def token_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Returns (rows, columns) of the patch grid. Raises InputError when the input is not made of whole patches."""
    if patch < 1 or height % patch or width % patch:
        raise InputError(f"a {width}x{height} input does not consist of whole {patch}x{patch} patches")
    return height // patch, width // patch


def pixels_of(tokens: Tokens, patch: int) -> NDArray[np.bool_]:
    """Returns the pixels that `tokens` see, boolean [H, W]."""
    return tokens.repeat(patch, axis=0).repeat(patch, axis=1)


def tokens_of(pixels: NDArray[np.bool_], patch: int) -> Tokens:
    """Returns the tokens, boolean [rows, columns], that see any of `pixels`, boolean [H, W]."""
    tokens: Tokens = np.any(by_token(pixels, patch), axis=-1)
    return tokens


def by_token(plane: NDArray[Any], patch: int) -> NDArray[Any]:
    """Cuts [..., H, W] into what each token sees: [..., rows, columns, patch^2]."""
    *lead, height, width = plane.shape
    rows, columns = token_grid(height, width, patch)
    cut = plane.reshape(*lead, rows, patch, columns, patch)
    return np.moveaxis(cut, -3, -2).reshape(*lead, rows, columns, patch * patch)


def box(grid: tuple[int, int], top: int, left: int, height: int, width: int) -> Tokens:
    """Returns a rectangle of tokens. Raises InputError when it is empty or leaves the grid."""
    inside = top >= 0 and left >= 0 and top + height <= grid[0] and left + width <= grid[1]
    if not inside or height < 1 or width < 1:
        raise InputError(f"a box of {height}x{width} tokens at {top},{left} does not fit a grid of {grid[0]}x{grid[1]}")
    tokens = np.zeros(grid, bool)
    tokens[top : top + height, left : left + width] = True
    return tokens


def centre_box(grid: tuple[int, int], side: float) -> Tokens:
    """Returns the rectangle in the middle with this share of each side, to the nearest whole token."""
    height, width = box_size(grid, side)
    return box(grid, (grid[0] - height) // 2, (grid[1] - width) // 2, height, width)


def random_box(grid: tuple[int, int], side: float, rng: np.random.Generator) -> Tokens:
    """Returns a rectangle of the size of `centre_box` anywhere on the grid."""
    height, width = box_size(grid, side)
    top, left = (int(rng.integers(0, n - size + 1)) for n, size in zip(grid, (height, width), strict=True))
    return box(grid, top, left, height, width)


def box_size(grid: tuple[int, int], side: float) -> tuple[int, int]:
    """Returns (height, width) in tokens of a box with this share of each side. Raises InputError unless in (0, 1]."""
    if not 0 < side <= 1:
        raise InputError(f"the share of each side that a region covers must be above 0 and at most 1, got {side}")
    height, width = (max(1, round(side * n)) for n in grid)
    return height, width
