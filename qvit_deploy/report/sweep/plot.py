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

Cost = tuple[str, Callable[[SweepRow], float]]


def sweep_plot(rows: Sequence[SweepRow]) -> bytes:
    """Returns an SVG file with the SQNR where it was measured, else the predicted loss relative to the score's largest.

    Filled points are on the Pareto front. The same rows give the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row.model for row in rows))
    costs: list[Cost] = [
        ("weights, MB", lambda row: row.weight_bytes / 1e6),
        ("BitOps, G", lambda row: row.bitops / 1e9),
    ]
    if all(row.latency_ms is not None for row in rows):
        costs.append(("latency of the sites, ms", lambda row: row.latency_ms or 0.0))
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's matplotlibrc must not change the plot
        matplotlib.rcParams["svg.hashsalt"] = "sweep"
        figure = Figure(figsize=(PANEL[0] * len(costs), PANEL[1] * len(models) + 0.5), layout="constrained")
        panels = figure.subplots(len(models), len(costs), squeeze=False)
        for model, line in zip(models, panels, strict=True):
            for cost, axes in zip(costs, line, strict=True):
                _panel(axes, [row for row in rows if row.model == model], cost)
            line[0].set_title(model, loc="left", fontsize=10, parse_math=False)
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=9)
        out = io.BytesIO()
        nothing = {key: None for key in ("Date", "Creator", "Format", "Type")}
        figure.savefig(out, format="svg", metadata=nothing)
    return out.getvalue()


def _panel(axes: Axes, rows: Sequence[SweepRow], cost: Cost) -> None:
    measured = all(row.sqnr_db is not None for row in rows)
    for index, score in enumerate(dict.fromkeys(row.score for row in rows)):
        points = sorted((row for row in rows if row.score == score), key=cost[1])
        largest = max(row.loss for row in points) or 1.0
        x = [cost[1](row) for row in points]
        y = [row.sqnr_db if row.sqnr_db is not None else row.loss / largest for row in points]
        colour = f"C{index}"
        axes.plot(
            x, y, color=colour, lw=1, marker="o", ms=5, mfc="white", label="one width" if score == "none" else score
        )
        front = [(a, b) for a, b, row in zip(x, y, points, strict=True) if row.pareto]
        axes.plot([a for a, _ in front], [b for _, b in front], color=colour, lw=0, marker="o", ms=5)
    axes.set_xlabel(cost[0], fontsize=9)
    axes.set_ylabel("SQNR, dB" if measured else "predicted loss, relative", fontsize=9)
    if not measured:
        axes.set_yscale("log")
    axes.tick_params(labelsize=8)
    axes.grid(lw=0.4, alpha=0.6)
    axes.spines[["top", "right"]].set_visible(False)
