"""Plots a sweep: the loss of every allocation against its cost, one panel per model and cost."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from qvit_deploy.report.sweep.table import SweepRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = (4.6, 3.4)
"""Width and height of a panel, inches."""

LOSS = "predicted loss, relative"

Quantity = tuple[str, Callable[[SweepRow], float]]
"""The name of an axis, and where a row lies on it."""


def sweep_plot(rows: Sequence[SweepRow]) -> bytes:
    """Returns an SVG file with the SQNR where it was measured, else the predicted loss relative to the score's largest;
    below it the figure of the task, where the rows of a model have one.

    Filled points are on the Pareto front. The same rows give the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    by_model = {row.model: [other for other in rows if other.model == row.model] for row in rows}
    lines = [(model, height) for model, mine in by_model.items() for height in _heights(mine)]
    costs: list[Quantity] = [
        ("weights, MB", lambda row: row.weight_bytes / 1e6),
        ("BitOps, G", lambda row: row.bitops / 1e9),
    ]
    if all(row.latency_ms is not None for row in rows):
        costs.append(("latency of the sites, ms", lambda row: row.latency_ms or 0.0))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the plot
        matplotlib.rcParams["svg.hashsalt"] = "sweep"
        figure = Figure(figsize=(PANEL[0] * len(costs), PANEL[1] * len(lines) + 0.5), layout="constrained")
        panels = figure.subplots(len(lines), len(costs), squeeze=False)
        for (model, height), line in zip(lines, panels, strict=True):
            for cost, axes in zip(costs, line, strict=True):
                _panel(axes, by_model[model], cost, height)
            line[0].set_title(model, loc="left", fontsize=10, parse_math=False)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=9)
        out = io.BytesIO()
        nothing = {key: None for key in ("Date", "Creator", "Format", "Type")}
        figure.savefig(out, format="svg", metadata=nothing)
    return out.getvalue()


def _heights(rows: Sequence[SweepRow]) -> list[Quantity]:
    """Returns what the rows of one model are plotted by."""
    largest = {score: max(row.loss for row in rows if row.score == score) or 1.0 for score in {r.score for r in rows}}

    def loss(row: SweepRow) -> float:
        return row.sqnr_db if row.sqnr_db is not None else row.loss / largest[row.score]

    measured = all(row.sqnr_db is not None for row in rows)
    heights: list[Quantity] = [("SQNR, dB" if measured else LOSS, loss)]
    figures = {row.figure.name for row in rows if row.figure is not None}
    if len(figures) == 1 and all(row.figure is not None for row in rows):
        heights.append((figures.pop(), lambda row: 0.0 if row.figure is None else row.figure.value))
    return heights


def _panel(axes: Axes, rows: Sequence[SweepRow], cost: Quantity, height: Quantity) -> None:
    for index, score in enumerate(dict.fromkeys(row.score for row in rows)):
        points = sorted((row for row in rows if row.score == score), key=cost[1])
        x = [cost[1](row) for row in points]
        y = [height[1](row) for row in points]
        colour = f"C{index}"
        axes.plot(
            x, y, color=colour, lw=1, marker="o", ms=5, mfc="white", label="one width" if score == "none" else score
        )
        front = [(a, b) for a, b, row in zip(x, y, points, strict=True) if row.pareto]
        axes.plot([a for a, _ in front], [b for _, b in front], color=colour, lw=0, marker="o", ms=5)
    axes.set_xlabel(cost[0], fontsize=9)
    axes.set_ylabel(height[0], fontsize=9)
    if height[0] == LOSS:
        axes.set_yscale("log")
    axes.tick_params(labelsize=8)
    axes.grid(lw=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
