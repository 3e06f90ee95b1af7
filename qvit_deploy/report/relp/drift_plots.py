"""Plots a quantized model's drift: whether the estimate can be trusted, and where the drift arises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qvit_deploy.report.labels import printable, runs, site_labels
from qvit_deploy.report.numbers import digits, percent
from qvit_deploy.report.relp.heat import Floats, Tree, is_image, magnitude_rgba, on_image, prefix_names, split
from qvit_deploy.report.relp.panels import add_heading, add_text, canvas, colour_bar, diagonal, grid_lines, show_cells
from qvit_deploy.report.svg import COLOURS, bit_colour, own_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 1040
PARTS = 4
"""Sections of the network's depth whose drift is shown over the image, before that of all sites."""


def drift_figures(tree: Tree) -> dict[str, Figure]:
    """Plots the tree of `pipeline.explanation_tree.drift_tree`.

    Returns:
        Figures by name: `agreement`, `blocks`, `sites`, `errors`, and `tokens` where sites have tokens that lie on the
        image.
    """
    with own_style("drift"):
        figures = {
            "agreement": _agreement(tree),
            "blocks": _blocks(tree),
            "sites": _sites(tree),
            "errors": _errors(tree),
        }
        if (tokens := _tokens(tree)) is not None:
            figures["tokens"] = tokens
    return figures


def true_drift(tree: Tree) -> Floats:
    """Returns the metric of the quantized minus that of the float model, float64 [images]."""
    return np.asarray(tree["after"], float) - np.asarray(tree["before"], float)


def by_block(tree: Tree) -> dict[str, Floats]:
    """Returns by block the sum of its sites' effects, float64 [images], in the order of the network."""
    sums: dict[str, Floats] = {}
    for site in tree["sites"]:
        effects = np.asarray(site["effects"], float)
        sums[site["block"]] = sums[site["block"]] + effects if site["block"] in sums else effects
    # Layers outside the blocks come before, between and behind them; their sum has no place in the order.
    return {name: sums[name] for name in sorted(sums, key=lambda n: n == "outside blocks")}


def _agreement(tree: Tree) -> Figure:
    """Plots the estimated drift against the true one, one point per image."""
    side, left = 250, 56
    figure, panel = canvas(left + side + 8, side + 78)
    axes = panel(left, 30, side, side)
    true, estimated = true_drift(tree), np.asarray(tree["estimated"], float)
    both = np.concatenate([true, estimated, [0.0]])
    grid_lines(axes, "both")
    diagonal(axes, float(both.min()), float(both.max()))
    axes.scatter(true, estimated, s=18, color=COLOURS["b6"], alpha=0.6, lw=0, zorder=2)
    add_text(
        axes,
        -left,
        12,
        "drift of the metric, one point per image",
        color=COLOURS["ink"],
        fontsize=12,
        fontweight="bold",
    )
    add_text(axes, side / 2, -side - 34, "true change, quantized minus float", ha="center")
    add_text(axes, -left + 4, -side / 2, "sum of the sites' effects", rotation=90, va="center", ha="left")
    return figure


def _blocks(tree: Tree) -> Figure:
    """Plots by block the root mean square over the images of the sum of its sites' effects."""
    sums = by_block(tree)
    rms = [float(np.sqrt(np.mean(v**2))) for v in sums.values()]
    row, left, width = 26, 150, 430
    figure, panel = canvas(width, 34 + row * len(sums) + 44)
    axes = panel(left, 34, width - left - 100, row * len(sums))
    axes.barh(range(len(sums)), rms, 0.62, color=COLOURS["relevance"], zorder=2)
    axes.set(ylim=(len(sums) - 0.5, -0.5), yticks=range(len(sums)))
    axes.set_yticklabels([_short(name, 22) for name in sums], color=COLOURS["ink"], parse_math=False)
    true = true_drift(tree)
    power = float(true @ true)
    for index, (value, effects) in enumerate(zip(rms, sums.values(), strict=True)):
        share = f", {100 * float(effects @ true) / power:.0f} %".replace("-", "−") if power else ""
        axes.annotate(digits(value) + share, (value, index), (5, 0), textcoords="offset points", va="center",
                      fontsize=10.5, color=COLOURS["muted"])  # fmt: skip
    axes.locator_params(axis="x", nbins=5)
    grid_lines(axes, "x")
    for spine in axes.spines.values():
        spine.set_visible(False)
    add_text(
        axes,
        -left,
        14,
        "effect of whole blocks (rms), share of the drift",
        color=COLOURS["ink"],
        fontsize=12,
        fontweight="bold",
    )
    return figure


def _sites(tree: Tree) -> Figure:
    """Plots the rms effect of every site in the order of the network, with the widths of its operands below."""
    sites = tree["sites"]
    labels = site_labels([s["name"] for s in sites])
    left, pitch = 64, min(max((WIDTH - 76) / max(len(sites), 1), 13.0), 44.0)
    names = 16 + 6.4 * max((len(label.leaf) for label in labels), default=0)
    inner = 16 + 6.4 * max((len(label.leaf) for label in labels if label.block), default=0)
    high, strip = 190, 15
    figure, panel = canvas(max(left + pitch * len(sites) + 12, 420), 40 + high + 2 * strip + 12 + names + 26)
    span = pitch * len(sites)
    axes = panel(left, 40, span, high)
    axes.set(xlim=(-0.5, len(sites) - 0.5), xticks=[])
    for _, first, last in runs(labels)[::2]:
        axes.axvspan(first - 0.5, last + 0.5, color=COLOURS["band"], lw=0, zorder=0)
    axes.bar(
        range(len(sites)),
        [s["rms_effect"] for s in sites],
        0.7,
        color=[bit_colour(s["a_bits"]) for s in sites],
        zorder=2,
    )
    grid_lines(axes)
    axes.locator_params(axis="y", nbins=5)
    below = panel(left, 40 + high + 6, span, 2 * strip)
    below.set(xlim=(-0.5, len(sites) - 0.5), ylim=(2, 0), yticks=[0.5, 1.5], xticks=range(len(sites)))
    below.set_yticklabels(["weights", "inputs"])
    below.set_xticklabels([label.leaf for label in labels], rotation=90, parse_math=False)
    for column, site in enumerate(sites):
        for line, bits in enumerate((site["w_bits"], site["a_bits"])):
            below.barh(line + 0.5, 0.86, 0.86, left=column - 0.43, color=bit_colour(bits))
            below.text(column, line + 0.52, "–" if bits is None else str(bits), color=COLOURS["on-bits"], ha="center",
                       va="center", fontsize=9.5, fontweight="bold")  # fmt: skip
    for spine in (*below.spines.values(), axes.spines["top"], axes.spines["right"], axes.spines["left"]):
        spine.set_visible(False)
    for label, first, last in runs(labels):
        if label.block and (last - first + 1) * pitch >= 6.5 * len(label.number):
            add_text(below, (((first + last) / 2) + 0.5) * pitch, -2 * strip - inner - 8, label.number, ha="center")
    if any(label.block for label in labels):
        add_text(below, -8, -2 * strip - inner - 8, "block", ha="right")
    add_heading(axes, -left, 20, "effect of every site on the metric (rms), coloured by the width of its input")
    return figure


def _errors(tree: Tree) -> Figure:
    """Plots the effect of every site against the relative error of its output.

    A site far below the others is harmless, one far above is not.
    """
    width, height, left = 660, 300, 64
    figure, panel = canvas(width, height + 84)
    axes = panel(left, 34, width - left - 10, height)
    points = [s for s in tree["sites"] if s["error"] > 0 and s["rms_effect"] > 0]
    from matplotlib.ticker import LogLocator

    axes.set(xscale="log", yscale="log")
    if points:
        x, y = ([s[key] for s in points] for key in ("error", "rms_effect"))
        axes.scatter(x, y, s=46, color=[bit_colour(s["a_bits"]) for s in points], alpha=0.85, lw=0, zorder=3)
        axes.set_xlim(min(x) / 1.4, max(x) * 1.9)
        axes.set_ylim(min(y) / 1.6, max(y) * 1.6)
        _name_notable_sites(axes, points, x, y, width)
    axes.xaxis.set_major_formatter(lambda value, _: percent(value))
    axes.yaxis.set_major_formatter(lambda value, _: digits(value))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axes.xaxis.set_minor_formatter(lambda value, _: percent(value))
    axes.yaxis.set_minor_formatter(lambda value, _: digits(value))
    axes.tick_params(which="minor", length=0, labelsize=10.5, colors=COLOURS["muted"])
    widths = sorted({s["a_bits"] for s in points}, key=lambda b: (b is None, b))
    for index, bits in enumerate(widths):
        name = "float" if bits is None else f"{bits} bits"
        add_text(axes, width - left - 66 - 62 * (len(widths) - 1 - index), 16, f"● {name}", color=bit_colour(bits))
    grid_lines(axes, "both")
    add_text(
        axes,
        -left,
        16,
        "error against effect, one point per site",
        color=COLOURS["ink"],
        fontsize=12,
        fontweight="bold",
    )
    add_text(axes, (width - left) / 2, -height - 38, "error of the site's output, relative", ha="center")
    add_text(axes, -left, -height / 2, "effect on the metric (rms)", rotation=90, va="center", ha="left")
    return figure


def _name_notable_sites(axes: Axes, points: Sequence[Tree], x: list[float], y: list[float], width: int) -> None:
    """Names the points with the largest effects and the largest and smallest ratios of effect to error.

    Names that would cover one that is there are left out.
    """
    harm = np.asarray(y) / np.asarray(x)
    notable = {*np.argsort(y)[-3:].tolist(), *np.argsort(harm)[-2:].tolist(), int(np.argmin(harm))}
    placed: list[tuple[float, float, float]] = []  # start, end and height of every name, pixels
    for index in sorted(notable, key=lambda i: -points[i]["rms_effect"]):
        at = axes.transData.transform((x[index], y[index]))
        near_end = at[0] > 0.75 * width
        name = _short(points[index]["name"], 26)
        length = 7 + 6.2 * len(name)
        start, end = (at[0] - length, at[0]) if near_end else (at[0], at[0] + length)
        if any(start < other_end and other < end and abs(at[1] - y_at) < 14 for other, other_end, y_at in placed):
            continue
        placed.append((start, end, at[1]))
        axes.annotate(name, (x[index], y[index]), (-7 if near_end else 7, 5),
                      textcoords="offset points", ha="right" if near_end else "left", fontsize=10,
                      color=COLOURS["ink"], parse_math=False, zorder=4)  # fmt: skip


def _tokens(tree: Tree) -> Figure | None:
    """Plots where on the image the drift arises: mean magnitudes of the sites' effects, by section of the depth."""
    sites = [s for s in tree["sites"] if s["tokens"] is not None and is_image(s["grid"])]
    if not sites:
        return None
    finest = max(s["grid"][1] for s in sites), max(s["grid"][2] for s in sites)
    if any(finest[0] % s["grid"][1] or finest[1] % s["grid"][2] for s in sites):
        return None
    sections = [[sites[i] for i in part] for part in np.array_split(np.arange(len(sites)), min(PARTS, len(sites)))]
    groups = [*sections, sites]
    maps = [on_image([(np.asarray(s["tokens"], float), s["grid"]) for s in part], finest) for part in groups]
    labels = site_labels([s["name"] for s in sites])
    names = {s["name"]: f"block {label.number} {label.leaf}" if label.number else label.leaf
             for s, label in zip(sites, labels, strict=True)}  # fmt: skip
    gap, side = 16, 192.0
    limits = [max(float(m.max()) for m in maps[:-1]) or 1.0] * len(sections) + [float(maps[-1].max()) or 1.0]
    figure, panel = canvas(len(groups) * (side + gap) - gap, side + 78)
    for column, (part, cells, limit) in enumerate(zip(groups, maps, limits, strict=True)):
        axes = panel(column * (side + gap), 40, side, side)
        show_cells(axes, magnitude_rgba(cells, limit), extent=(0, 1, 1, 0))
        axes.set(xticks=[], yticks=[])
        first, last = (names[s["name"]] for s in (part[0], part[-1]))
        title = "all sites" if part is sites else first
        add_text(
            axes, 0, 24, title, color=COLOURS["ink"], fontsize=11, fontweight="bold" if part is sites else "normal"
        )
        add_text(axes, 0, 9, f"{len(part)} with tokens in order" if part is sites else f"to {last}", fontsize=10.5)
        prefix = np.sum([split(np.asarray(s["tokens"], float), s["grid"])[0].sum() for s in part])
        tail = f", {prefix_names(1)[0]} {digits(float(prefix))}" if any(s["grid"][0] for s in part) else ""
        add_text(axes, 0, -side - 15, f"patches {digits(float(cells.sum()))}{tail}", fontsize=10.5)
        colour_bar(panel, column * (side + gap), 40 + side + 24, limit, signed=False)
    return figure


def _short(name: str, longest: int) -> str:
    name = printable(name)
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 :]}"
