"""Explains completeness to a reader: which sizes not to trust, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from qvit_deploy.report.labels import block_names, printable
from qvit_deploy.report.relp.heat import KINDS, Tree, of_kind

SHOWN = ("residual", "attention", "mlp")
"""Kinds of the table; heads add up to the attention they are parts of."""


@dataclass(frozen=True)
class Sum:
    """One entry of the table: `text` is the completeness, `beyond` says that it is too far from any true value."""

    block: str
    text: str
    beyond: bool


def warning(tree: Tree, pair: Tree) -> str:
    """Returns a warning when the sums of some layers cannot be right, else ""."""
    bad = {kind: [c for c in of_kind(pair, kind) if c["beyond"]] for kind in SHOWN}
    parts = []
    if bad["residual"]:
        values = [float(c["completeness"]) for c in bad["residual"]]
        parts.append(
            f"at {len(values)} of {len(of_kind(pair, 'residual'))} places of the residual stream the estimates add up "
            f"to {_range(values)} times the true difference, where replacing the whole stream gives 1"
        )
    for kind in ("attention", "mlp"):
        if bad[kind]:
            names = block_names([str(c["label"]) for c in bad[kind]])
            values = [float(c["completeness"]) for c in bad[kind]]
            parts.append(f"those of the {KINDS[kind]} of block {', '.join(names)} to {_range(values)} times")
    if not parts:
        return ""
    sizes = [float(c["completeness"]) for components in bad.values() for c in components]
    return printable(f"Do not trust sizes here: {'; '.join(parts)}. {_advice(tree, pair, sizes)}")


def _advice(tree: Tree, pair: Tree, sizes: list[float]) -> str:
    if any(c["exact"] is not None for c in pair["components"]):
        return "The exact effects are compared below; go by them."
    over = max(sizes) > 1
    other = "attnlrp" if over and tree["rules"] in ("relp", "gradient", "relp-ah") else None
    other = "relp" if not over and tree["rules"] != "relp" else other
    return "Measure with --exact" + (f", or try --rules {other}." if other else ".")


def sums(pair: Tree) -> list[tuple[str, list[Sum]]]:
    """Returns (kind, its blocks in order) of every kind whose sums are known."""
    rows = []
    for kind in SHOWN:
        known = [c for c in of_kind(pair, kind) if c["completeness"] is not None]
        names = block_names([str(c["label"]) for c in known])
        entries = [Sum(name, _number(float(c["completeness"])), bool(c["beyond"]))
                   for name, c in zip(names, known, strict=True)]  # fmt: skip
        if entries:
            rows.append((KINDS[kind], entries))
    return rows


def _range(values: list[float]) -> str:
    low, high = _number(min(values)), _number(max(values))
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    return f"{'−' if round(value, 2) < 0 else ''}{abs(value):.2f}"
