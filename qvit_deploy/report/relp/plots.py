"""Plots RelP's maps: over the image, token by token along the depth, by head and by block."""

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
    cell_text,
    clipped_text,
    displayable,
    effects,
    is_image,
    of_kind,
    on_image,
    prefix_names,
    scale_of,
    signed_rgba,
    split,
    unreached,
)  # fmt: skip
from qvit_deploy.report.relp.panels import BAR_WIDTH, add_heading, add_text, canvas, colour_bar, show_cells
from qvit_deploy.report.relp.text import task_of
from qvit_deploy.report.svg import COLOURS, own_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 1040
DEPTHS = 4
"""Places along the residual stream that are shown over the image."""
IMAGE_OPACITY = 0.28
"""Opacity of the picture below a heatmap."""
TITLE_WIDTH = 138
"""Pixels of the name of a kind, before its colour bar."""
PREFIX_WIDTH = 46
"""Pixels of a prefix token: room for its number."""


def relp_figures(tree: Tree, clean: NDArray[np.float32], corrupt: NDArray[np.float32]) -> dict[str, Figure]:
    """Plots the tree of `pipeline.explanation_tree.relp_tree`.

    Args:
        clean, corrupt: inputs of the model, float32 [pairs, C, H, W].

    Returns:
        Figures by name: `pair-I-pictures`, `-image` (where tokens lie on the image), `-tokens`, `-blocks`, `-heads`
        (where there are any) for every pair; `exact` and `agreement` where there are exact maps.
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
    for column, (role, image, other) in enumerate((("clean", clean, corrupt), ("corrupt", corrupt, clean))):
        axes = panel(column * (side + gap), 22, side, side)
        axes.imshow(displayable(image, other), interpolation="none")
        axes.set_xticks([])
        axes.set_yticks([])
        add_text(axes, 0, 7, role, color=COLOURS["ink"], fontsize=12, fontweight="bold")
        if pair[role + "_class"] is not None:
            add_text(axes, side, 7, f"{answer} {pair[role + '_class']}", ha="right", fontsize=12)
        add_text(axes, 0, -side - 17, f"metric {signed(pair[role])}", fontsize=12, color=COLOURS["ink"])
    return figure


def _over_image(pair: Tree, clean: NDArray[np.float32], corrupt: NDArray[np.float32]) -> Figure | None:
    """Plots the residual stream at a few depths, and the sums of attention and MLP outputs over all blocks.

    Returns None when no tokens lie on the image, or when their grids do not divide each other.
    """
    groups = _image_groups(pair)
    grids = [c["grid"] for kind in ("residual", "attention", "mlp") for c in of_kind(pair, kind) if is_image(c["grid"])]
    if not grids:
        return None
    finest = max(g[1] for g in grids), max(g[2] for g in grids)
    if any(finest[0] % g[1] or finest[1] % g[2] for g in grids):
        return None
    maps = [on_image([(effects(c), c["grid"]) for c in components], finest) for _, components, _ in groups]
    gap = 14
    side = min(168.0, (WIDTH - (len(groups) - 1) * gap) / len(groups))
    figure, panel = canvas(len(groups) * (side + gap) - gap, side + 62)
    stream_scale = scale_of([m for m, (kind, _, _) in zip(maps, groups, strict=True) if kind == "residual"])
    for column, ((kind, components, title), cells) in enumerate(zip(groups, maps, strict=True)):
        scale = stream_scale if kind == "residual" else scale_of([cells])
        x = column * (side + gap)
        axes = panel(x, 24, side, side)
        extent = (0, 1, 1, 0)
        axes.imshow(
            displayable(clean, corrupt).mean(-1),
            cmap="gray",
            vmin=0,
            vmax=1,
            alpha=IMAGE_OPACITY,
            interpolation="none",
            extent=extent,
        )
        show_cells(axes, signed_rgba(cells, scale.limit), extent=extent)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        add_text(axes, 0, 8, title, color=COLOURS["ink"], fontsize=11)
        prefix = sum(float(split(effects(c), c["grid"])[0].sum()) for c in components)
        patches = float(sum(split(effects(c), c["grid"])[1].sum() for c in components))
        tail = f", CLS {signed(prefix)}" if any(c["grid"][0] for c in components) else ""
        add_text(axes, 0, -side - 15, f"patches {signed(patches)}{tail}", fontsize=10.5)
        colour_bar(panel, x, 24 + side + 24, scale.limit)
    return figure


def _image_groups(pair: Tree) -> list[tuple[str, list[Tree], str]]:
    """Returns (kind, components, title) of every map over the image."""
    on_grid = {
        kind: [c for c in of_kind(pair, kind) if is_image(c["grid"])] for kind in ("residual", "attention", "mlp")
    }
    stream = [c for c in on_grid["residual"] if not unreached(c)[c["grid"][0] :].all()]
    chosen = [stream[i] for i in sorted({round(i) for i in np.linspace(0, len(stream) - 1, DEPTHS)})] if stream else []
    groups = [("residual", [c], f"stream into block {name}" if name != "output" else "stream after the last")
              for c, name in zip(chosen, block_names([str(c["label"]) for c in chosen]), strict=True)]  # fmt: skip
    parts = (("attention", "attention"), ("mlp", "MLPs"))
    return groups + [(kind, on_grid[kind], f"sum of all {part}") for kind, part in parts if on_grid[kind]]


def _tokens(pair: Tree) -> Figure:
    """Plots layer x token, one panel per kind: prefix tokens with their numbers, then patches row by row."""
    kinds = [kind for kind in ("residual", "attention", "mlp") if of_kind(pair, kind)]
    left, top, gap, row = 62, 30, 50, 17
    prefix = max((c["grid"][0] for k in kinds for c in of_kind(pair, k) if c["grid"]), default=0)
    start = left + prefix * PREFIX_WIDTH + (10 if prefix else 0)
    heights = [row * len(of_kind(pair, kind)) for kind in kinds]
    figure, panel = canvas(WIDTH, top + sum(heights) + gap * (len(kinds) - 1) + 24)
    y = float(top)
    for kind, height in zip(kinds, heights, strict=True):
        components = of_kind(pair, kind)
        scale = scale_of([effects(c)[~unreached(c)] for c in components])
        axes = panel(start, y, WIDTH - start - 2, height)
        axes.set(xlim=(0, 1), ylim=(len(components), 0), xticks=[])
        first_axes = panel(left, y, prefix * PREFIX_WIDTH, height) if prefix else axes
        first_axes.set(ylim=(len(components), 0), yticks=np.arange(len(components)) + 0.5)
        first_axes.set_yticklabels(block_names([str(c["label"]) for c in components]), parse_math=False)
        if prefix:
            first_axes.set(xlim=(0, prefix), xticks=np.arange(prefix) + 0.5)
            first_axes.set_xticklabels(prefix_names(prefix), fontsize=10)
            axes.set_yticks([])
        for index, component in enumerate(components):
            _token_row(axes, first_axes, index, component, scale, prefix)
        add_heading(axes, left - start, 10, KINDS[kind])
        add_text(axes, left - start - 6, 10, "block", ha="right", fontsize=10.5)
        colour_bar(panel, left + TITLE_WIDTH, y - 19, scale.limit)
        add_text(axes, left - start + TITLE_WIDTH + BAR_WIDTH + 10, 10, clipped_text(scale), fontsize=10.5)
        add_text(axes, 0, -height - 14, _order_text(kind, components), fontsize=10.5)
        y += height + gap
    return figure


def _order_text(kind: str, components: Sequence[Tree]) -> str:
    """Says in which order tokens are plotted."""
    grids = list(dict.fromkeys(f"{c['grid'][1]} × {c['grid'][2]}" for c in components if c["grid"]))
    text = f"patches, row by row of the image ({', then '.join(grids)}); lines part the rows"
    rows = "; the stream that enters each block" if kind == "residual" else ""
    return (text if grids else "tokens in the order of memory") + rows


def _token_row(axes: Axes, prefix_axes: Axes, index: int, component: Tree, scale: Scale, prefix: int) -> None:
    """Plots one component: patches on `axes`, its prefix tokens on `prefix_axes`; hatches runs of unreached cells."""
    from matplotlib.patches import Rectangle

    grid = component["grid"]
    prefix_values, patches = split(effects(component), grid)
    cells = patches.ravel()
    show_cells(axes, signed_rgba(cells, scale.limit)[None], extent=(0, 1, index + 0.96, index + 0.04))
    edges = np.linspace(0, 1, len(cells) + 1)
    hatched = unreached(component)[len(prefix_values) :].astype(int)
    run_ends = np.flatnonzero(np.diff(np.concatenate([[0], hatched, [0]])))
    for first, last in run_ends.reshape(-1, 2):
        box = (edges[first], index + 0.04), edges[last] - edges[first], 0.92
        axes.add_patch(Rectangle(*box, facecolor="none", edgecolor=COLOURS["float"], hatch="//////", lw=0))
    if grid is not None:
        x = np.linspace(0, 1, grid[1] + 1)[1:-1]
        axes.vlines(x, index, index + 1, color=COLOURS["muted"], lw=0.5, alpha=0.6)
    axes.set(xlim=(0, 1))
    axes.axhline(index, color=COLOURS["line"], lw=0.5)
    for column, value in enumerate(prefix_values):
        extent = (column, column + 1, index + 0.96, index + 0.04)
        show_cells(prefix_axes, signed_rgba(np.array([[value]]), scale.limit), extent=extent)
        strong = abs(value) > STRONG * scale.limit
        prefix_axes.text(column + 0.5, index + 0.5, cell_text(value, scale.limit), ha="center", va="center",
                         fontsize=9.5, color=COLOURS["on-bits" if strong else "ink"])  # fmt: skip
    if prefix:
        prefix_axes.set(xlim=(0, prefix), ylim=axes.get_ylim())
