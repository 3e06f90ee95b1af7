"""Turns the cells of a map into colours: their place on the image, one symmetric scale, and unreached cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.report.numbers import digits
from qvit_deploy.report.svg import COLOURS

Floats = NDArray[np.float64]
Tree = Mapping[str, Any]

KINDS = {"residual": "residual stream", "attention": "attention output", "mlp": "MLP output", "head": "heads"}
"""The text of every kind of component, in the order of a page."""

ON_SCALE = 0.98
"""The share of cells whose magnitudes stay on a scale; at most the rest is clipped."""

STRONG = 0.8
"""Share of full colour from which a number on a cell is written in the colour of the page: below it the ink has more
contrast, on light pages and on dark ones."""

OUTLIER_RATIO = 1.5
"""A scale is clipped only when its largest magnitude is this many times the largest that stays on it."""


@dataclass(frozen=True)
class Scale:
    """A colour scale for magnitudes 0 to `limit`, the same for both signs.

    `clipped` of `cells` values are above the limit; `largest` is the largest magnitude.
    """

    limit: float
    largest: float
    clipped: int
    cells: int


def scale_of(values: Sequence[Floats]) -> Scale:
    """Chooses the scale of some maps: up to the largest magnitude, or to the 98 % quantile when few are outliers."""
    magnitudes = np.abs(np.concatenate([np.asarray(v, np.float64).ravel() for v in values] or [np.zeros(0)]))
    counted = magnitudes[magnitudes > 0]
    if not counted.size:
        return Scale(1.0, 0.0, 0, magnitudes.size)
    largest, quantile = float(counted.max()), float(np.quantile(counted, ON_SCALE, method="lower"))
    limit = quantile if largest > OUTLIER_RATIO * quantile else largest
    return Scale(limit, largest, int((magnitudes > limit).sum()), magnitudes.size)


def signed_rgba(values: Floats, limit: float) -> NDArray[np.float64]:
    """Returns RGBA [..., 4] of signed values: 0 is transparent, `limit` and above opaque, for light and dark pages."""
    share = np.clip(np.abs(values) / limit, 0, 1)
    colour = np.where((values > 0)[..., None], _rgb("up"), _rgb("down"))
    return np.concatenate([colour, share[..., None]], -1)


def magnitude_rgba(values: Floats, limit: float) -> NDArray[np.float64]:
    """Returns RGBA [..., 4] of magnitudes in one colour, with the transparency of `signed_rgba`."""
    share = np.clip(values / limit, 0, 1)
    return np.concatenate([np.broadcast_to(_rgb("relevance"), (*values.shape, 3)), share[..., None]], -1)


def _rgb(name: str) -> Floats:
    return np.array([int(COLOURS[name][i : i + 2], 16) / 255 for i in (1, 3, 5)])


def of_kind(pair: Tree, kind: str) -> list[Tree]:
    """Returns the components of one kind, in the order the network computes them."""
    return [c for c in pair["components"] if c["kind"] == kind]


def effects(component: Tree) -> Floats:
    """Returns the estimated effects of a component's cells, float64 [cells]."""
    return np.asarray(component["effects"], np.float64)


def unreached(component: Tree) -> NDArray[np.bool_]:
    """Returns which cells no gradient reaches, boolean [cells]."""
    return ~np.asarray(component["reached"], bool)


def split(cells: Floats, grid: Sequence[int] | None) -> tuple[Floats, Floats]:
    """Splits cells into (prefix tokens, patches [rows, columns]); without a grid all tokens are one row.

    Args:
        grid: (number of prefix tokens, rows, columns).
    """
    if grid is None:
        return cells[:0], cells[None]
    prefix, rows, columns = grid
    return cells[:prefix], cells[prefix:].reshape(rows, columns)


def is_image(grid: Sequence[int] | None) -> bool:
    """Returns whether the tokens lie on the image; a single one has no place."""
    return grid is not None and grid[1] * grid[2] > 1


def prefix_names(count: int) -> list[str]:
    """Names the prefix tokens: the class token first, then registers or others."""
    return ["CLS", *(f"+{i}" for i in range(1, count))][:count]


def cell_text(value: float, limit: float) -> str:
    """Writes a value for its cell of a map: two digits relative to the limit of the scale, never an exponent."""
    text = f"{abs(value):.{max(0, 1 - math.floor(math.log10(limit)))}f}"
    return f"{'+' if value > 0 else '−'}{text}" if text.strip("0.") else "0"


def clipped_text(scale: Scale) -> str:
    """Writes "beyond the scale: 6 of 301 cells, up to 8.3"; "" when none are clipped."""
    if not scale.clipped:
        return ""
    return f"beyond the scale: {scale.clipped} of {scale.cells} cells, up to {digits(scale.largest)}"


def on_image(maps: Sequence[tuple[Floats, Sequence[int]]], like: tuple[int, int] | None = None) -> Floats:
    """Adds token maps, perhaps of different grids, on the finest of them; returns [rows, columns].

    A coarse token's effect is divided evenly among the fine cells it covers, so that sums stay equal.

    Args:
        maps: (cells, grid) each; the grids of all of them divide the finest.
        like: (rows, columns) of the result, the finest grid when None.

    Raises:
        ValueError: a grid does not divide the finest.
    """
    rows, columns = like or (max(g[1] for _, g in maps), max(g[2] for _, g in maps))
    total = np.zeros((rows, columns))
    for cells, grid in maps:
        patches = split(cells, grid)[1]
        down, right = math.ceil(rows / grid[1]), math.ceil(columns / grid[2])
        spread = np.kron(patches, np.full((down, right), 1 / (down * right)))
        if spread.shape != total.shape:
            raise ValueError(f"a grid of {grid[1]}x{grid[2]} does not divide {rows}x{columns}")
        total += spread
    return total


def displayable(image: NDArray[Any], other: NDArray[Any]) -> Floats:
    """Scales a normalised image [C, H, W] to [H, W, 3] in 0..1, by the range of it and the image shown next to it."""
    both = np.stack([image, other]).astype(np.float64)
    low, high = both.min(), both.max()
    unit = (np.asarray(image, np.float64) - low) / ((high - low) or 1.0)
    return np.moveaxis(np.repeat(unit, 3, 0) if len(unit) == 1 else unit[:3], 0, -1)
