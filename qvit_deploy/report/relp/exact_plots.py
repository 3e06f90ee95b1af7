"""Plots estimated against exact effects: every cell of every pair, and the correlations with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qvit_deploy.report.relp.heat import KINDS, Tree, effects, of_kind, unreached
from qvit_deploy.report.relp.panels import add_heading, add_text, canvas, diagonal, grid_lines
from qvit_deploy.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def exact_figure(tree: Tree) -> Figure:
    """Plots the estimate against exact patching, one panel per kind, without the cells that nothing reaches."""
    kinds = [kind for kind in KINDS if any(c["exact"] is not None for p in tree["pairs"] for c in of_kind(p, kind))]
    side, left, gap = 206, 44, 50
    figure, panel = canvas(left + len(kinds) * (side + gap) - gap + 4, side + 76)
    for column, kind in enumerate(kinds):
        axes = panel(left + column * (side + gap), 28, side, side)
        cells = [(effects(c)[~unreached(c)], np.asarray(c["exact"], float)[~unreached(c)], c["grid"])
                 for p in tree["pairs"] for c in of_kind(p, kind) if c["exact"] is not None]  # fmt: skip
        x, y = (np.concatenate([c[i] for c in cells]) for i in (1, 0))
        # Cells that nothing reaches come behind the prefix tokens, whose indices therefore stay.
        prefix = np.concatenate([np.arange(len(e)) < (g[0] if g else 0) for e, _, g in cells])
        both = np.concatenate([x, y, [0.0]])
        grid_lines(axes, "both")
        diagonal(axes, float(both.min()), float(both.max()))
        for chosen, colour in ((~prefix, COLOURS["b6"]), (prefix, COLOURS["relevance"])):
            axes.scatter(x[chosen], y[chosen], s=14, color=colour, alpha=0.55, lw=0, zorder=2)
        add_heading(axes, 0, 10, KINDS[kind])
        add_text(axes, side, 10, f"{len(x):,} cells", ha="right", fontsize=10.5)
        add_text(axes, side / 2, -side - 32, "exact patching", ha="center")
        if column == 0:
            add_text(axes, -40, -side / 2, "estimate", rotation=90, va="center", ha="left")
            cls = "● CLS and the like" if prefix.any() else ""
            add_text(axes, 6, -14, cls, color=COLOURS["relevance"], fontsize=10)
            add_text(axes, 6, -28 if prefix.any() else -14, "● patches", color=COLOURS["b6"], fontsize=10)
    return figure


def agreement_figure(tree: Tree) -> Figure:
    """Plots Pearson's r of every method with exact patching, per kind, with its 95 % interval over pairs."""
    kinds = [k for k in KINDS if k in tree["agreement"]]
    methods = list(dict.fromkeys(m for k in kinds for m in tree["agreement"][k]))
    row, left, width, gap = 20, 96, 208, 26
    figure, panel = canvas(left + len(kinds) * (width + gap) - gap + 4, 60 + row * len(methods))
    for column, kind in enumerate(kinds):
        axes = panel(left + column * (width + gap), 28, width, row * len(methods))
        grid_lines(axes, "x")
        axes.axvline(0, color=COLOURS["muted"], lw=1)
        for index, method in enumerate(methods):
            if method not in tree["agreement"][kind]:
                continue
            pearson = tree["agreement"][kind][method]["metrics"]["pearson"]
            if pearson["mean"] is None:
                continue
            colour = COLOURS["relevance" if method == tree["rules"] else "float"]
            if pearson["low"] is not None:
                axes.plot([max(pearson["low"], -1), min(pearson["high"], 1)], [index, index], color=colour, lw=2)
            axes.plot(pearson["mean"], index, "o", color=colour, ms=7)
        axes.set(xlim=(-0.55, 1.04), ylim=(len(methods) - 0.5, -0.5), xticks=[-0.5, 0, 0.5, 1])
        axes.set_yticks(range(len(methods)) if column == 0 else [])
        if column == 0:
            axes.set_yticklabels([str(m) for m in methods], color=COLOURS["ink"], parse_math=False)
        axes.set_xticklabels(["−0.5", "0", "0.5", "1"])
        add_heading(axes, 0, 10, KINDS[kind])
    return figure
