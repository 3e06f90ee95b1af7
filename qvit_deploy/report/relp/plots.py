"""The plots of RelP maps: over the image, token by token along the depth, by head and by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.report.labels import block_names
from qvit_deploy.report.numbers import signed
from qvit_deploy.report.relp.block_plots import blocks_figure, heads_figure
from qvit_deploy.report.relp.exact_plots import agreement_figure, exact_figure
from qvit_deploy.report.relp.heat import (
    KINDS,
    STRONG,
    Scale,
    Tree,
    beyond,
    dead,
    effects,
    front_names,
    heat,
    in_cell,
    is_image,
    of_kind,
    on_image,
    photo,
    scale_of,
    split,
)  # fmt: skip
from qvit_deploy.report.relp.panels import BAR_WIDTH, canvas, colour_bar, head, picture, write
from qvit_deploy.report.relp.text import task_of
from qvit_deploy.report.svg import COLOURS, own_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 1040
DEPTHS = 4
"""Places along the residual stream that are shown over the image."""
FAINT = 0.28
"""Opacity of the picture below a heatmap."""
TITLE = 138
"""Pixels of the name of a kind, before its colour bar."""
FRONT = 46
"""Pixels of a token in front of the patches: room for its number, which the colours cannot tell."""


def relp_figures(tree: Tree, clean: NDArray[np.float32], corrupt: NDArray[np.float32]) -> dict[str, Figure]:
    """Every figure of the page of `explain_tree.relp_tree`, by name.

    Args:
        clean, corrupt: the pairs as the model sees them, [pairs, C, H, W].

    Returns:
        `pair-I-pictures`, `-image` (where tokens lie on the image), `-tokens`, `-blocks`, `-heads` (where there are
        any) for every pair; `exact` and `agreement` where there are exact maps.
    """
    figures: dict[str, Figure] = {}
    with own_style("relp"):
        for index, pair in enumerate(tree["pairs"]):
            name = f"pair-{index}"
            figures[f"{name}-pictures"] = _pictures(task_of(tree).words.answer, pair, clean[index], corrupt[index])
            if (figure := _over_image(pair, clean[index], corrupt[index])) is not None:
                figures[f"{name}-image"] = figure
            figures[f"{name}-blocks"] = blocks_figure(pair)
            figures[f"{name}-tokens"] = _tokens(pair)
            if of_kind(pair, "head"):
                figures[f"{name}-heads"] = heads_figure(pair)
        if any(c["exact"] is not None for p in tree["pairs"] for c in p["components"]):
            figures["exact"] = exact_figure(tree)
        if tree["agreement"]:
            figures["agreement"] = agreement_figure(tree)
    return figures


def _pictures(answer: str, pair: Tree, clean: NDArray[np.float32], corrupt: NDArray[np.float32]) -> Figure:
    side, gap = 140, 20
    figure, panel = canvas(2 * side + gap, side + 46)
    for column, (word, image, other) in enumerate((("clean", clean, corrupt), ("corrupt", corrupt, clean))):
        axes = panel(column * (side + gap), 22, side, side)
        axes.imshow(photo(image, other), interpolation="none")
        axes.set_xticks([])
        axes.set_yticks([])
        write(axes, 0, 7, word, color=COLOURS["ink"], fontsize=12, fontweight="bold")
        write(axes, side, 7, f"{answer} {pair[word + '_class']}", ha="right", fontsize=12)
        write(axes, 0, -side - 17, f"metric {signed(pair[word])}", fontsize=12, color=COLOURS["ink"])
    return figure


def _over_image(pair: Tree, clean: NDArray[np.float32], corrupt: NDArray[np.float32]) -> Figure | None:
    """The residual stream at a few depths, and the sums of attention and MLP outputs over all blocks."""
    placed = {
        kind: [c for c in of_kind(pair, kind) if is_image(c["grid"])] for kind in ("residual", "attention", "mlp")
    }
    grids = [c["grid"] for found in placed.values() for c in found]
    if not grids:
        return None
    finest = max(g[1] for g in grids), max(g[2] for g in grids)
    if any(finest[0] % g[1] or finest[1] % g[2] for g in grids):
        return None
    stream = [c for c in placed["residual"] if not dead(c)[c["grid"][0] :].all()]
    chosen = [stream[i] for i in sorted({round(i) for i in np.linspace(0, len(stream) - 1, DEPTHS)})] if stream else []
    groups = [("residual", [c], f"stream into block {name}" if name != "output" else "stream after the last")
              for c, name in zip(chosen, block_names([str(c["label"]) for c in chosen]), strict=True)]  # fmt: skip
    groups += [
        (kind, placed[kind], f"sum of all {word}")
        for kind, word in (("attention", "attention"), ("mlp", "MLPs"))
        if placed[kind]
    ]
    maps = [on_image([(effects(c), c["grid"]) for c in found], finest) for _, found, _ in groups]
    gap = 14
    side = min(168.0, (WIDTH - (len(groups) - 1) * gap) / len(groups))
    figure, panel = canvas(len(groups) * (side + gap) - gap, side + 62)
    stream_scale = scale_of([m for m, (kind, _, _) in zip(maps, groups, strict=True) if kind == "residual"])
    for column, ((kind, found, title), cells) in enumerate(zip(groups, maps, strict=True)):
        scale = stream_scale if kind == "residual" else scale_of([cells])
        x = column * (side + gap)
        axes = panel(x, 24, side, side)
        extent = (0, 1, 1, 0)
        axes.imshow(
            photo(clean, corrupt).mean(-1),
            cmap="gray",
            vmin=0,
            vmax=1,
            alpha=FAINT,
            interpolation="none",
            extent=extent,
        )
        picture(axes, heat(cells, scale.limit), extent=extent)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        write(axes, 0, 8, title, color=COLOURS["ink"], fontsize=11)
        front = sum(float(split(effects(c), c["grid"])[0].sum()) for c in found)
        inside = float(sum(split(effects(c), c["grid"])[1].sum() for c in found))
        tail = f", CLS {signed(front)}" if any(c["grid"][0] for c in found) else ""
        write(axes, 0, -side - 15, f"patches {signed(inside)}{tail}", fontsize=10.5)
        colour_bar(panel, x, 24 + side + 24, scale.limit)
    return figure


def _tokens(pair: Tree) -> Figure:
    """Layer x token, one panel per kind: tokens in front with their numbers, then patches row by row of the image."""
    kinds = [kind for kind in ("residual", "attention", "mlp") if of_kind(pair, kind)]
    left, top, gap, row = 62, 30, 50, 17
    front = max((c["grid"][0] for k in kinds for c in of_kind(pair, k) if c["grid"]), default=0)
    start = left + front * FRONT + (10 if front else 0)
    heights = [row * len(of_kind(pair, kind)) for kind in kinds]
    figure, panel = canvas(WIDTH, top + sum(heights) + gap * (len(kinds) - 1) + 24)
    y = float(top)
    for kind, height in zip(kinds, heights, strict=True):
        found = of_kind(pair, kind)
        scale = scale_of([effects(c)[~dead(c)] for c in found])
        axes = panel(start, y, WIDTH - start - 2, height)
        axes.set(xlim=(0, 1), ylim=(len(found), 0), xticks=[])
        labelled = panel(left, y, front * FRONT, height) if front else axes
        labelled.set(ylim=(len(found), 0), yticks=np.arange(len(found)) + 0.5)
        labelled.set_yticklabels(block_names([str(c["label"]) for c in found]), parse_math=False)
        if front:
            labelled.set(xlim=(0, front), xticks=np.arange(front) + 0.5)
            labelled.set_xticklabels(front_names(front), fontsize=10)
            axes.set_yticks([])
        for index, component in enumerate(found):
            _token_row(axes, labelled, index, component, scale, front)
        head(axes, left - start, 10, KINDS[kind])
        write(axes, left - start - 6, 10, "block", ha="right", fontsize=10.5)
        colour_bar(panel, left + TITLE, y - 19, scale.limit)
        write(axes, left - start + TITLE + BAR_WIDTH + 10, 10, beyond(scale), fontsize=10.5)
        write(axes, 0, -height - 14, _order_words(kind, found), fontsize=10.5)
        y += height + gap
    return figure


def _order_words(kind: str, found: Sequence[Tree]) -> str:
    grids = list(dict.fromkeys(f"{c['grid'][1]} × {c['grid'][2]}" for c in found if c["grid"]))
    words = f"patches, row by row of the image ({', then '.join(grids)}); lines part the rows"
    rows = "; the stream that enters each block" if kind == "residual" else ""
    return (words if grids else "tokens in the order of memory") + rows


def _token_row(axes: Axes, fronts: Axes, index: int, component: Tree, scale: Scale, front: int) -> None:
    from matplotlib.patches import Rectangle

    values, unreached, grid = effects(component), dead(component), component["grid"]
    before, patches = split(values, grid)
    cells = patches.ravel()
    picture(axes, heat(cells, scale.limit)[None], extent=(0, 1, index + 0.96, index + 0.04))
    edges = np.linspace(0, 1, len(cells) + 1)
    gone = np.flatnonzero(np.diff(np.concatenate([[0], unreached[len(before) :].astype(int), [0]])))
    for first, last in gone.reshape(-1, 2):
        box = (edges[first], index + 0.04), edges[last] - edges[first], 0.92
        axes.add_patch(Rectangle(*box, facecolor="none", edgecolor=COLOURS["float"], hatch="//////", lw=0))
    if grid is not None:
        x = np.linspace(0, 1, grid[1] + 1)[1:-1]
        axes.vlines(x, index, index + 1, color=COLOURS["muted"], lw=0.5, alpha=0.6)
    axes.set(xlim=(0, 1))
    axes.axhline(index, color=COLOURS["line"], lw=0.5)
    for column, value in enumerate(before):
        picture(fronts, heat(np.array([[value]]), scale.limit), extent=(column, column + 1, index + 0.96, index + 0.04))
        strong = abs(value) > STRONG * scale.limit
        fronts.text(column + 0.5, index + 0.5, in_cell(value, scale.limit), ha="center", va="center", fontsize=9.5,
                    color=COLOURS["on-bits" if strong else "ink"])  # fmt: skip
    if front:
        fronts.set(xlim=(0, front), ylim=axes.get_ylim())
