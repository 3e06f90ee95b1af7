"""Plots RelP's effects by block: sums of attention and MLP outputs, and every head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qvit_deploy.report.labels import block_names
from qvit_deploy.report.relp.heat import STRONG, Tree, cell_text, clipped_text, effects, of_kind, scale_of, signed_rgba
from qvit_deploy.report.relp.panels import add_heading, add_text, canvas, colour_bar, grid_lines, show_cells
from qvit_deploy.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_WIDTH = 272
"""Pixels of a head map that fits next to the pictures and the bars on one line of a page; many heads need more."""


def heads_figure(pair: Tree) -> Figure:
    """Plots the effects as a map of block x head, with the numbers where they fit."""
    blocks = of_kind(pair, "head")
    heads, rows = max(len(c["effects"]) for c in blocks), len(blocks)
    cell, row, left, top = min(52.0, (MAP_WIDTH if heads < 8 else 480) / heads), 24, 44, 54
    scale = scale_of([effects(c) for c in blocks])
    height = row * rows
    figure, panel = canvas(max(left + heads * cell + 2, 256), top + height + 40 + (16 if scale.clipped else 0))
    axes = panel(left, top, heads * cell, height)
    axes.set(xlim=(0, heads), ylim=(rows, 0), xticks=np.arange(heads) + 0.5, yticks=np.arange(rows) + 0.5)
    axes.set_xticklabels([str(i) for i in range(heads)])
    axes.set_yticklabels(block_names([str(c["label"]) for c in blocks]), parse_math=False)
    for index, component in enumerate(blocks):
        values = effects(component)
        extent = (0, len(values), index + 0.97, index + 0.03)
        show_cells(axes, signed_rgba(values, scale.limit)[None], extent=extent)
        axes.set(xlim=(0, heads), ylim=(rows, 0))
        for column, value in enumerate(values if cell > 34 else []):
            strong = abs(value) > STRONG * scale.limit
            axes.text(column + 0.5, index + 0.5, cell_text(value, scale.limit), ha="center", va="center", fontsize=10,
                      color=COLOURS["on-bits" if strong else "ink"])  # fmt: skip
    add_heading(axes, -left, 40, "heads, change of the metric")
    colour_bar(panel, left, 22, scale.limit)
    add_text(axes, -6, 8, "block", ha="right", fontsize=10.5)
    add_text(axes, heads * cell / 2, -height - 32, "head", ha="center")
    add_text(axes, -left, -height - 50, clipped_text(scale), fontsize=10.5)
    return figure


def blocks_figure(pair: Tree) -> Figure:
    """Plots the sums over tokens of the effects of attention and MLP, block by block."""
    kinds = [k for k in ("attention", "mlp") if of_kind(pair, k)]
    names = list(dict.fromkeys((c["block"], str(c["label"])) for k in kinds for c in of_kind(pair, k)))
    width, height, left = 360, 250, 58
    figure, panel = canvas(width, height)
    axes = panel(left, 40, width - left - 4, height - 40 - 40)
    for side, kind in enumerate(kinds):
        components = of_kind(pair, kind)
        x = np.array([names.index((c["block"], str(c["label"]))) for c in components]) + (side - 0.5) * 0.38
        colour = COLOURS["b6" if kind == "attention" else "relevance"]
        axes.bar(x, [effects(c).sum() for c in components], 0.34, color=colour, zorder=2)
    axes.axhline(0, color=COLOURS["muted"], lw=1, zorder=3)
    grid_lines(axes)
    axes.set_xticks(range(len(names)))
    axes.set_xticklabels(block_names([label for _, label in names]), rotation=90 if len(names) > 12 else 0,
                         parse_math=False)  # fmt: skip
    axes.set_xlim(-0.6, len(names) - 0.4)
    for spine in axes.spines.values():
        spine.set_visible(False)
    add_heading(axes, -left, 26, "attention and MLP, summed over tokens")
    add_text(axes, -left, 9, "■ attention", color=COLOURS["b6"], fontsize=10.5)
    add_text(axes, -left + 74, 9, "■ MLP", color=COLOURS["relevance"], fontsize=10.5)
    add_text(axes, (width - left) / 2, -(height - 80) - 34, "block", ha="center")
    add_text(axes, -left, -(height - 80) / 2, "change of the metric", rotation=90, va="center", ha="left")
    return figure
