"""Cells of a map as colours: where they lie on the image, one symmetric scale, and which of them nothing reaches."""

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
"""Kinds of components in words, in the order of a page."""

WHOLE = 0.98
"""The share of cells whose magnitudes stay on a scale; at most the rest is clipped."""

STRONG = 0.8
"""Share of full colour from which a number on a cell is written in the colour of the page: below it the ink has more
contrast, on light pages and on dark ones."""

DWARFS = 1.5
"""A scale is cut only when its largest magnitude is this many times the largest that stays on it."""


@dataclass(frozen=True)
class Scale:
    """Magnitude 0 to `limit`, the same for both signs; `clipped` of `cells` values are beyond, `largest` being the
    largest magnitude."""

    limit: float
    largest: float
    clipped: int
    cells: int


def scale_of(values: Sequence[Floats]) -> Scale:
    """The scale of some maps: the largest magnitude, or the 98 % quantile when few cells dwarf all others."""
    magnitudes = np.abs(np.concatenate([np.asarray(v, np.float64).ravel() for v in values] or [np.zeros(0)]))
    counted = magnitudes[magnitudes > 0]
    if not counted.size:
        return Scale(1.0, 0.0, 0, magnitudes.size)
    largest, whole = float(counted.max()), float(np.quantile(counted, WHOLE, method="lower"))
    limit = whole if largest > DWARFS * whole else largest
    return Scale(limit, largest, int((magnitudes > limit).sum()), magnitudes.size)


def heat(values: Floats, limit: float) -> NDArray[np.float64]:
    """RGBA of signed values: 0 is transparent, `limit` and beyond opaque; so it serves light and dark pages."""
    share = np.clip(np.abs(values) / limit, 0, 1)
    colour = np.where((values > 0)[..., None], _rgb("up"), _rgb("down"))
    return np.concatenate([colour, share[..., None]], -1)


def warmth(values: Floats, limit: float) -> NDArray[np.float64]:
    """RGBA of magnitudes, as `heat`."""
    share = np.clip(values / limit, 0, 1)
    return np.concatenate([np.broadcast_to(_rgb("relevance"), (*values.shape, 3)), share[..., None]], -1)


def _rgb(name: str) -> Floats:
    return np.array([int(COLOURS[name][i : i + 2], 16) / 255 for i in (1, 3, 5)])


def of_kind(pair: Tree, kind: str) -> list[Tree]:
    """The components of one kind, in the order the network computes them."""
    return [c for c in pair["components"] if c["kind"] == kind]


def effects(component: Tree) -> Floats:
    """The estimated effects of a component's cells."""
    return np.asarray(component["effects"], np.float64)


def dead(component: Tree) -> NDArray[np.bool_]:
    """Cells that nothing reaches."""
    return ~np.asarray(component["reached"], bool)


def split(cells: Floats, grid: Sequence[int] | None) -> tuple[Floats, Floats]:
    """(tokens in front of the patches, patches [rows, columns]); without a grid all tokens are one row."""
    if grid is None:
        return cells[:0], cells[None]
    front, rows, columns = grid
    return cells[:front], cells[front:].reshape(rows, columns)


def is_image(grid: Sequence[int] | None) -> bool:
    """Whether the tokens lie on the image: a single one says nothing about places."""
    return grid is not None and grid[1] * grid[2] > 1


def front_names(count: int) -> list[str]:
    """What the tokens in front of the patches are called: a class token first, registers or others behind."""
    return ["CLS", *(f"+{i}" for i in range(1, count))][:count]


def in_cell(value: float, limit: float) -> str:
    """A value of a map inside its cell: two digits of what the scale ends at, never an exponent."""
    text = f"{abs(value):.{max(0, 1 - math.floor(math.log10(limit)))}f}"
    return f"{'+' if value > 0 else '−'}{text}" if text.strip("0.") else "0"


def beyond(scale: Scale) -> str:
    """beyond the scale: 6 of 301 cells, up to 8.3; nothing when all of them are on it."""
    if not scale.clipped:
        return ""
    return f"beyond the scale: {scale.clipped} of {scale.cells} cells, up to {digits(scale.largest)}"


def on_image(maps: Sequence[tuple[Floats, Sequence[int]]], like: tuple[int, int] | None = None) -> Floats:
    """The sum of token maps of perhaps different grids on their finest, [rows, columns].

    A coarse token's effect is shared out evenly among the fine cells it covers, so that sums are kept.

    Args:
        maps: (cells, grid) each; the grids of all of them divide the finest.
        like: (rows, columns) of the result, the finest grid when None.
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


def photo(image: NDArray[Any], other: NDArray[Any]) -> Floats:
    """[H, W, 3] in 0..1 of a normalised image [C, H, W], stretched to the range of it and the image beside it."""
    both = np.stack([image, other]).astype(np.float64)
    low, high = both.min(), both.max()
    shown = (np.asarray(image, np.float64) - low) / ((high - low) or 1.0)
    return np.moveaxis(np.repeat(shown, 3, 0) if len(shown) == 1 else shown[:3], 0, -1)
