"""Plots the report of a compile: bits and relevance along the depth of the network, bytes and BitOps by role."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qvit_deploy.allocate.cost import FLOAT_BITS, bit_operations, storage_bits
from qvit_deploy.artifacts.manifest import SiteRecord
from qvit_deploy.report.compile.scores import Ranking
from qvit_deploy.report.labels import ROLES, Label, role_text, runs, site_labels
from qvit_deploy.report.numbers import NARROW, amount, percent
from qvit_deploy.report.svg import COLOURS, bit_colour, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 1040
"""Pixels of the depth plot, as wide as the page; with many sites it is wider and scrolls."""
TOP, LEFT, RIGHT = 8, 52, 12
PITCH = (13, 44)
"""Least and greatest pixels per site: room for a rotated label, and bars that are not too wide."""
MAX_NAMES = 24
"""Characters of site names that fit next to the name of their role."""
SCORE_HEIGHT, BITS_HEIGHT, GAP = 130, 150, 14


def depth_plot(sites: Sequence[SiteRecord], ranking: Ranking | None) -> str:
    """Plots the bits of every site in graph order: weights upwards, activations downwards, scores above them.

    Returns `<svg>`.
    """
    description = f"Bits of {len(sites)} sites along the network" + (", with their scores" if ranking else "")
    return draw("depth", description, lambda: _depth(sites, ranking))


def bytes_plot(sites: Sequence[SiteRecord]) -> str:
    """Plots packed weight bytes by role and weight width. Returns `<svg>`."""
    return draw("bytes", "Packed weight bytes by role", lambda: _shares(sites, _weight_bytes, "B"))


def bitops_plot(sites: Sequence[SiteRecord]) -> str:
    """Plots BitOps by role and weight width. Returns `<svg>`."""
    return draw("bitops", "BitOps by role", lambda: _shares(sites, _bit_operations, ""))


def _weight_bytes(site: SiteRecord) -> float:
    return storage_bits(site.params, site.w_bits) / 8


def _bit_operations(site: SiteRecord) -> float:
    return bit_operations(site.macs, site.w_bits, site.a_bits)


def _depth(sites: Sequence[SiteRecord], ranking: Ranking | None) -> Figure:
    from matplotlib.figure import Figure

    labels = site_labels([s.name for s in sites])
    pitch = min(max((WIDTH - LEFT - RIGHT) / max(len(sites), 1), PITCH[0]), PITCH[1])
    width = LEFT + RIGHT + max(len(sites), 4) * pitch
    # Heights of the rotated names, of sites in blocks (which have block numbers below) and of those outside.
    names = 14 + 6.2 * max((len(label.leaf) for label in labels if label.block), default=0)
    names_outside = 14 + 6.2 * max((len(label.leaf) for label in labels if not label.block), default=0)
    top = SCORE_HEIGHT + GAP if ranking else 0
    height = TOP + top + BITS_HEIGHT + max(names + 26, names_outside)
    figure = Figure(figsize=(width / 72, height / 72))

    def panel(y: float, panel_height: float) -> Axes:
        # Left, bottom, width, height as fractions; y counts from the top. Not constrained_layout, which measures text
        # and so differs between versions.
        box = (LEFT / width, 1 - (y + panel_height) / height, 1 - (LEFT + RIGHT) / width, panel_height / height)
        axes = figure.add_axes(box)
        axes.set_xlim(-0.5, max(len(sites), 4) - 0.5)
        _hide_frame(axes)
        for _, first, last in runs(labels)[::2]:
            axes.axvspan(first - 0.5, last + 0.5, color=COLOURS["band"], lw=0, zorder=0)
        return axes

    if ranking:
        _score_bars(panel(TOP, SCORE_HEIGHT), ranking, pitch)
    bits = panel(TOP + top, BITS_HEIGHT)
    _bit_bars(bits, sites)
    _name_sites(bits, labels, names, pitch)
    return figure


def _score_bars(axes: Axes, ranking: Ranking, pitch: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_ylim(0, 100 * ranking.limit)
    _axis_title(axes, ranking.name, 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{NARROW}%")
    _grid(axes)
    # A score of None leaves its place empty.
    shown = [(i, share) for i, share in enumerate(ranking.shares) if share is not None]
    heights = [100 * max(0.0, min(share, ranking.limit)) for _, share in shown]
    axes.bar([i for i, _ in shown], heights, width=0.62, color=COLOURS["relevance"], zorder=2)
    for i, share in shown:
        if share <= ranking.limit:
            continue
        # The bar goes on beyond the plot: two cuts through it and its true height beside it.
        for y in (0.84, 0.88):
            axes.plot([i - 0.45, i + 0.45], [100 * ranking.limit * y, 100 * ranking.limit * (y + 0.04)],
                      color=COLOURS["card"], lw=2, zorder=3)  # fmt: skip
        near_end = i > len(ranking.shares) / 2
        axes.annotate(percent(share), (i, 100 * ranking.limit), (-0.5 * pitch if near_end else 0.5 * pitch, -10),
                      textcoords="offset points", ha="right" if near_end else "left", va="center", fontsize=11,
                      color=COLOURS["ink"], fontweight="bold", parse_math=False)  # fmt: skip


def _bit_bars(axes: Axes, sites: Sequence[SiteRecord]) -> None:
    widths = sorted({b for s in sites for b in (s.w_bits, s.a_bits) if b is not None})
    full = max(widths, default=8)
    for bits_of, sign in ((lambda s: s.w_bits, 1), (lambda s: s.a_bits, -1)):
        bits = [bits_of(s) for s in sites]
        axes.bar(range(len(sites)), [sign * (b or full) for b in bits], width=0.78, zorder=2,
                 color=[COLOURS["card"] if b is None else bit_colour(b) for b in bits],
                 edgecolor=[COLOURS["float"] if b is None else bit_colour(b) for b in bits],
                 linewidth=1, hatch=["////" if b is None else "" for b in bits])  # fmt: skip
    axes.axhline(0, color=COLOURS["card"], lw=3, zorder=3)
    axes.set_ylim(-full - 0.6, full + 0.6)
    ticks = widths or [full]
    axes.set_yticks([-b for b in reversed(ticks)] + ticks)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0f}")
    _grid(axes)
    for text, y in (("weights", 0.75), ("activations", 0.25)):
        _axis_title(axes, text, y)


def _name_sites(axes: Axes, labels: Sequence[Label], names: float, pitch: float) -> None:
    axes.set_xticks(range(len(labels)))
    axes.tick_params("x", pad=4)
    axes.set_xticklabels([label.leaf for label in labels], rotation=90, fontsize=10.5, parse_math=False)
    below = axes.get_xaxis_transform()  # x in sites, y in heights of the panel
    for label, first, last in runs(labels):
        if not label.block:
            continue
        axes.plot([first - 0.35, last + 0.35], [-names / BITS_HEIGHT] * 2, transform=below, clip_on=False, lw=1,
                  color=COLOURS["muted"])  # fmt: skip
        if (last - first + 1) * pitch >= 6.5 * len(label.number):
            axes.text((first + last) / 2, -(names + 5) / BITS_HEIGHT, label.number, transform=below, ha="center",
                      va="top", fontsize=11, color=COLOURS["ink"])  # fmt: skip


def _shares(sites: Sequence[SiteRecord], amount_of: Callable[[SiteRecord], float], unit: str) -> Figure:
    """Plots one bar per role, divided by weight width; `amount_of` says how much a site adds."""
    from matplotlib.figure import Figure

    rows: dict[str, dict[int | None, float]] = defaultdict(lambda: defaultdict(float))
    leaves: dict[str, dict[str, None]] = defaultdict(dict)
    for site, label in zip(sites, site_labels([s.name for s in sites]), strict=True):
        if amount_of(site):
            rows[role_text(site)][site.w_bits] += amount_of(site)
            leaves[role_text(site)][label.leaf] = None
    known = list(ROLES.values())
    order = sorted(rows, key=lambda r: (known.index(r) if r in known else len(known), r))
    total = sum(sum(row.values()) for row in rows.values()) or 1.0
    widest = max((sum(row.values()) for row in rows.values()), default=1.0)
    width, row_height = 430, 42
    height = row_height * max(len(order), 1)
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    for index, role in enumerate(order):
        y, start, row = index * row_height, 0.0, rows[role]
        text: dict[str, Any] = {"va": "baseline", "fontsize": 12, "parse_math": False}
        names = ", ".join(leaves[role])
        title = f"{role}: {names}" if len(names) <= MAX_NAMES else role
        axes.text(0, y + 14, title, color=COLOURS["ink"], **text)
        subtotal = sum(row.values())
        share = f"{amount(subtotal, unit)} · {percent(subtotal / total)}"
        axes.text(width, y + 14, share, color=COLOURS["muted"], ha="right", **text)
        for bits in sorted(row, key=lambda b: b or FLOAT_BITS):
            length = width * row[bits] / widest
            axes.barh(y + 28, max(length - 1.5, 0.75), 15, left=start, color=bit_colour(bits))
            if bits is not None and length > 22:
                axes.text(start + length / 2, y + 32, str(bits), color=COLOURS["on-bits"], ha="center",
                          va="baseline", fontsize=11, fontweight="bold")  # fmt: skip
            start += length
    return figure


def _axis_title(axes: Axes, name: str, y: float) -> None:
    """Writes left of the axis, at the height `y` in 0..1, what is plotted there."""
    axes.annotate(name, (0, y), (-44, 0), xycoords="axes fraction", textcoords="offset points", rotation=90,
                  ha="center", va="center", fontsize=11, color=COLOURS["ink"])  # fmt: skip


def _hide_frame(axes: Axes) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_facecolor("none")
    axes.tick_params(length=0, labelsize=11, colors=COLOURS["muted"])
    axes.set_xticks([])


def _grid(axes: Axes) -> None:
    axes.grid(axis="y", color=COLOURS["line"], lw=1, zorder=1)
    axes.set_axisbelow(True)
