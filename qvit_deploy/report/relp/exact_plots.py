"""Estimated against exact effects: every cell of every pair, and the correlations with their intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qvit_deploy.report.relp.heat import KINDS, Tree, dead, effects, of_kind
from qvit_deploy.report.relp.panels import canvas, diagonal, grid_lines, head, write
from qvit_deploy.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def exact_figure(tree: Tree) -> Figure:
    """Estimate against exact patching, one panel per kind, cells that nothing reaches left out."""
    kinds = [kind for kind in KINDS if any(c["exact"] is not None for p in tree["pairs"] for c in of_kind(p, kind))]
    side, left, gap = 206, 44, 50
    figure, panel = canvas(left + len(kinds) * (side + gap) - gap + 4, side + 76)
    for column, kind in enumerate(kinds):
        axes = panel(left + column * (side + gap), 28, side, side)
        cells = [(effects(c)[~dead(c)], np.asarray(c["exact"], float)[~dead(c)], c["grid"])
                 for p in tree["pairs"] for c in of_kind(p, kind) if c["exact"] is not None]  # fmt: skip
        x, y = (np.concatenate([c[i] for c in cells]) for i in (1, 0))
        # Dead cells come behind the tokens in front, so that those keep their places.
        front = np.concatenate([np.arange(len(e)) < (g[0] if g else 0) for e, _, g in cells])
        both = np.concatenate([x, y, [0.0]])
        grid_lines(axes, "both")
        diagonal(axes, float(both.min()), float(both.max()))
        for chosen, colour in ((~front, COLOURS["b6"]), (front, COLOURS["relevance"])):
            axes.scatter(x[chosen], y[chosen], s=14, color=colour, alpha=0.55, lw=0, zorder=2)
        head(axes, 0, 10, KINDS[kind])
        write(axes, side, 10, f"{len(x):,} cells", ha="right", fontsize=10.5)
        write(axes, side / 2, -side - 32, "exact patching", ha="center")
        if column == 0:
            write(axes, -40, -side / 2, "estimate", rotation=90, va="center", ha="left")
            write(axes, 6, -14, "● CLS and the like" if front.any() else "", color=COLOURS["relevance"], fontsize=10)
            write(axes, 6, -28 if front.any() else -14, "● patches", color=COLOURS["b6"], fontsize=10)
    return figure


def agreement_figure(tree: Tree) -> Figure:
    """Pearson's r of every method with exact patching, per kind, with its 95 % interval over pairs."""
    kinds = [k for k in KINDS if k in tree["agreement"]]
    methods = list(dict.fromkeys(m for k in kinds for m in tree["agreement"][k]))
    row, left, wide, gap = 20, 96, 208, 26
    figure, panel = canvas(left + len(kinds) * (wide + gap) - gap + 4, 60 + row * len(methods))
    for column, kind in enumerate(kinds):
        axes = panel(left + column * (wide + gap), 28, wide, row * len(methods))
        grid_lines(axes, "x")
        axes.axvline(0, color=COLOURS["muted"], lw=1)
        for index, method in enumerate(methods):
            if method not in tree["agreement"][kind]:
                continue
            measured = tree["agreement"][kind].get(method, {"metrics": {"pearson": {"mean": None}}})["metrics"][
                "pearson"
            ]
            if measured["mean"] is None:
                continue
            colour = COLOURS["relevance" if method == tree["rules"] else "float"]
            if measured["low"] is not None:
                axes.plot([max(measured["low"], -1), min(measured["high"], 1)], [index, index], color=colour, lw=2)
            axes.plot(measured["mean"], index, "o", color=colour, ms=7)
        axes.set(xlim=(-0.55, 1.04), ylim=(len(methods) - 0.5, -0.5), xticks=[-0.5, 0, 0.5, 1])
        axes.set_yticks(range(len(methods)) if column == 0 else [])
        if column == 0:
            axes.set_yticklabels([str(m) for m in methods], color=COLOURS["ink"], parse_math=False)
        axes.set_xticklabels(["−0.5", "0", "0.5", "1"])
        head(axes, 0, 10, KINDS[kind])
    return figure
