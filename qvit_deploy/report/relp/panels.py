"""Places the parts of a plot at given pixels: panels, texts, maps of cells and colour bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from qvit_deploy.report.labels import printable
from qvit_deploy.report.numbers import digits
from qvit_deploy.report.relp.heat import magnitude_rgba, signed_rgba
from qvit_deploy.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BAR_WIDTH, BAR_ROOM = 148, 44
"""Pixels of a colour bar, and of the number at each of its ends."""


def canvas(width: float, height: float) -> tuple[Figure, Callable[[float, float, float, float], Axes]]:
    """Returns a figure of `width` x `height` pixels (72 per inch) and a function that adds axes at (left, top, width,
    height) of it.

    It does not use constrained_layout, which measures text and so differs between versions of matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), facecolor=COLOURS["card"])

    def panel(left: float, top: float, panel_width: float, panel_height: float) -> Axes:
        box = (left / width, 1 - (top + panel_height) / height, panel_width / width, panel_height / height)
        axes = figure.add_axes(box)
        axes.set_facecolor("none")
        axes.tick_params(length=0, labelsize=10.5, colors=COLOURS["muted"])
        for spine in axes.spines.values():
            spine.set(color=COLOURS["line"], linewidth=1)
        return axes

    return figure, panel


def add_text(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Writes text at (x, y) pixels right of and above the upper left corner of the axes.

    The text may hold names from untrusted files: it is made printable and never read as a formula.
    """
    options: dict[str, Any] = {"fontsize": 11, "color": COLOURS["muted"], "va": "baseline"} | style
    axes.annotate(printable(text), (0, 1), (x, y), xycoords="axes fraction", textcoords="offset points",
                  annotation_clip=False, parse_math=False, **options)  # fmt: skip


def add_heading(axes: Axes, x: float, y: float, text: str) -> None:
    """Writes a heading at the place that `add_text` has."""
    add_text(axes, x, y, text, color=COLOURS["ink"], fontsize=12, fontweight="bold")


def show_cells(axes: Axes, rgba: Any, **options: Any) -> None:
    """Shows an image of cells [rows, columns, 4] without smoothing between them."""
    axes.imshow(rgba, interpolation="none", aspect="auto", **options)


def colour_bar(
    panel: Callable[[float, float, float, float], Axes], x: float, y: float, limit: float, *, signed: bool = True
) -> None:
    """Draws the scale of a map, −limit to limit or 0 to limit, in `BAR_WIDTH` x 10 pixels at (x, y)."""
    low, high = (f"−{digits(limit)}", f"+{digits(limit)}") if signed else ("0", digits(limit))
    steps = np.linspace(-limit if signed else 0.0, limit, 41)
    axes = panel(x + BAR_ROOM, y, BAR_WIDTH - 2 * BAR_ROOM, 10)
    show_cells(axes, (signed_rgba if signed else magnitude_rgba)(steps, limit)[None])
    axes.set(xticks=[], yticks=[])
    add_text(axes, -5, -9, low, ha="right", fontsize=10.5)
    add_text(axes, BAR_WIDTH - 2 * BAR_ROOM + 5, -9, high, fontsize=10.5)


def grid_lines(axes: Axes, axis: Any = "y") -> None:
    """Draws grid lines behind what is plotted."""
    axes.grid(axis=axis, color=COLOURS["line"], lw=1, zorder=0)
    axes.set_axisbelow(True)


def diagonal(axes: Axes, low: float, high: float) -> None:
    """Gives both axes equal limits and draws the line on which an estimate is right."""
    room = 0.05 * ((high - low) or 1.0)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(low - room, high + room)
    axes.plot(
        [low - room, high + room], [low - room, high + room], color=COLOURS["muted"], lw=1, ls=(0, (4, 3)), zorder=1
    )
    axes.locator_params(nbins=5)
