"""Panels of a figure at given pixels, which the plots of a page are put together from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from qvit_deploy.report.labels import printable
from qvit_deploy.report.numbers import digits
from qvit_deploy.report.relp.heat import heat, warmth
from qvit_deploy.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BAR_WIDTH, BAR_ROOM = 148, 44
"""Pixels of a colour bar, and of the number at each of its ends."""


def canvas(width: float, height: float) -> tuple[Figure, Callable[[float, float, float, float], Axes]]:
    """A figure of `width` x `height` pixels (72 an inch) and what adds axes at (left, top, width, height) of it.

    Not constrained_layout, which measures text and so differs between versions.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), facecolor=COLOURS["card"])

    def panel(left: float, top: float, wide: float, high: float) -> Axes:
        box = (left / width, 1 - (top + high) / height, wide / width, high / height)
        axes = figure.add_axes(box)
        axes.set_facecolor("none")
        axes.tick_params(length=0, labelsize=10.5, colors=COLOURS["muted"])
        for spine in axes.spines.values():
            spine.set(color=COLOURS["line"], linewidth=1)
        return axes

    return figure, panel


def write(axes: Axes, x: float, y: float, words: str, **how: Any) -> None:
    """Text at (x, y) pixels right of and above the upper left corner of the axes; names of strangers are made
    printable and never read as formulas."""
    style: dict[str, Any] = {"fontsize": 11, "color": COLOURS["muted"], "va": "baseline"} | how
    axes.annotate(printable(words), (0, 1), (x, y), xycoords="axes fraction", textcoords="offset points",
                  annotation_clip=False, parse_math=False, **style)  # fmt: skip


def head(axes: Axes, x: float, y: float, words: str) -> None:
    """A heading at that place."""
    write(axes, x, y, words, color=COLOURS["ink"], fontsize=12, fontweight="bold")


def picture(axes: Axes, rgba: Any, **how: Any) -> None:
    """An image of cells, kept as it is: no smoothing between them."""
    axes.imshow(rgba, interpolation="none", aspect="auto", **how)


def colour_bar(
    panel: Callable[[float, float, float, float], Axes], x: float, y: float, limit: float, *, signed: bool = True
) -> None:
    """What the colours of a map mean: −limit to limit, or 0 to limit, `BAR_WIDTH` x 10 pixels at (x, y)."""
    low, high = (f"−{digits(limit)}", f"+{digits(limit)}") if signed else ("0", digits(limit))
    steps = np.linspace(-limit if signed else 0.0, limit, 41)
    axes = panel(x + BAR_ROOM, y, BAR_WIDTH - 2 * BAR_ROOM, 10)
    picture(axes, (heat if signed else warmth)(steps, limit)[None])
    axes.set(xticks=[], yticks=[])
    write(axes, -5, -9, low, ha="right", fontsize=10.5)
    write(axes, BAR_WIDTH - 2 * BAR_ROOM + 5, -9, high, fontsize=10.5)


def grid_lines(axes: Axes, axis: Any = "y") -> None:
    axes.grid(axis=axis, color=COLOURS["line"], lw=1, zorder=0)
    axes.set_axisbelow(True)


def diagonal(axes: Axes, low: float, high: float) -> None:
    """Equal limits on both axes, with the line on which an estimate is right."""
    room = 0.05 * ((high - low) or 1.0)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(low - room, high + room)
    axes.plot(
        [low - room, high + room], [low - room, high + room], color=COLOURS["muted"], lw=1, ls=(0, (4, 3)), zorder=1
    )
    axes.locator_params(nbins=5)
