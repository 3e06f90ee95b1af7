"""Writes RelP's numbers as sentences and table cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qvit_deploy.report.labels import block_names, printable
from qvit_deploy.report.numbers import NARROW, digits, percent
from qvit_deploy.report.relp.heat import KINDS, Tree, effects, of_kind, prefix_names, unreached

METRIC_TEXTS = {
    "logit-diff": "the logit of one class minus that of another",
    "logit": "the logit of a class",
    "log-prob": "the logarithm of a class's probability",
}
RULE_TEXTS = {
    "gradient": "plain gradients (attribution patching)",
    "relp": "RelP's rules (relp)",
    "relp-ah": "RelP's rules, attention probabilities held fixed (relp-ah)",
}
MEASURES = {
    "pearson": "Pearson", "spearman": "Spearman", "slope": "slope", "normalized_error": "normalized error",
    "sign_agreement": "sign", "top_precision": "top 10 %",
}  # fmt: skip
"""The fields of `patching.agreement.Summary` as columns."""


def question(tree: Tree) -> str:
    """Says what the maps estimate, in a sentence."""
    metric, _, classes = str(tree["metric"]).partition(":")
    what = METRIC_TEXTS.get(metric, metric)
    named = f" (classes {classes.replace(',', ' and ')})" if classes else ""
    base, source = ("corrupt", "clean") if tree["direction"] == "denoising" else ("clean", "corrupt")
    rules = RULE_TEXTS.get(tree["rules"], f"the {tree['rules']} rules")
    return printable(
        f"How much would {what}{named} change if one cell of the {base} image's run were replaced by its value in the "
        f"{source} image's run? Estimated for all cells at once with {rules}, from two forward "
        "passes and one backward pass."
    )


def metric_text(tree: Tree, pair: Tree) -> str:
    """Names the metric of a pair with its classes, as far as the tree has them."""
    name, _, classes = str(tree["metric"]).partition(":")
    named = [c for c in classes.split(",") if c]
    first = named[0] if named else str(pair["clean_class"])
    if name != "logit-diff":
        return printable(f"{name} of class {first}")
    if not named and pair["clean_class"] == pair["corrupt_class"]:
        return printable(f"logit of class {first} minus that of the class that gains most on it")
    second = named[-1] if named else pair["corrupt_class"]
    return printable(f"logit of class {first} minus logit of class {second}")


def change(tree: Tree, pair: Tree) -> float:
    """Returns what patching everything does to the metric; effects are given as shares of it."""
    difference = float(pair["clean"]) - float(pair["corrupt"])
    return difference if tree["direction"] == "denoising" else -difference


def strongest_components(tree: Tree, pair: Tree) -> str:
    """Says which blocks, heads and tokens carry the decision."""
    total = change(tree, pair)
    if not total:
        return "The metric is the same on both images: there is no difference to be carried."
    parts = []
    sums = [
        (float(effects(c).sum()), f"{part} of block {name}")
        for kind, part in (("attention", "attention"), ("mlp", "the MLP"))
        for c, name in zip(of_kind(pair, kind), _names(of_kind(pair, kind)), strict=True)
    ]
    ranked = sorted(sums, key=lambda s: -s[0] * np.sign(total))
    best = [(value, name) for value, name in ranked[:3] if value * total > 0]
    if best:
        (value, name), rest = best[0], best[1:]
        sentence = f"{name[0].upper()}{name[1:]} carries an estimated {_share(value, total)} of the difference of "
        sentence += digits(abs(total))
        if rest:
            sentence += ", followed by " + " and ".join(f"{n} ({_share(v, total)})" for v, n in rest)
        parts.append(sentence + ".")
    against = [(v, n) for v, n in ranked[::-1][:1] if v * total < -0.05 * total**2]
    parts += [f"{n[0].upper()}{n[1:]} works against it ({_share(v, total)})." for v, n in against]
    heads = of_kind(pair, "head")
    cells = [(float(v), f"head {i} of block {name}") for c, name in zip(heads, _names(heads), strict=True)
             for i, v in enumerate(effects(c))]  # fmt: skip
    if cells:
        value, name = max(cells, key=lambda cell: abs(cell[0]))
        parts.append(f"The strongest head is {name} ({_share(value, total)}).")
    if (token := _strongest_token(pair, total)) is not None:
        parts.append(token)
    return " ".join(parts)


def _strongest_token(pair: Tree, total: float) -> str | None:
    """Names the token with the largest effect of attention and MLPs together; None when grids differ."""
    components = [c for kind in ("attention", "mlp") for c in of_kind(pair, kind) if c["grid"] is not None]
    grids = list(dict.fromkeys(tuple(c["grid"]) for c in components))
    if len(grids) != 1:
        return None
    prefix, _, columns = grids[0]
    sums = np.sum([effects(c) for c in components], axis=0)
    index = int(np.abs(sums).argmax())
    name = f"the {prefix_names(prefix)[index]} token" if index < prefix else _place(index - prefix, columns)
    return f"Of all tokens most goes through {name} ({_share(float(sums[index]), total)}, all blocks together)."


def _names(components: Sequence[Tree]) -> list[str]:
    return block_names([str(c["label"]) for c in components])


def _place(patch: int, columns: int) -> str:
    return f"the patch in row {patch // columns + 1}, column {patch % columns + 1}"


def _share(value: float, total: float) -> str:
    share = round(100 * value / total)
    return f"{'−' if share < 0 else ''}{abs(share)}{NARROW}%"


def unreached_text(pair: Tree) -> str:
    """Says which cells are hatched, and that they do not count; "" when there are none."""
    cells = sum(int(unreached(c).sum()) for c in pair["components"])
    if not cells:
        return ""
    return (
        f"Hatched: {cells} cells that nothing reads any more (structural zeros, such as patch tokens behind the last "
        "attention of a class-token model); they are excluded from the scales and from every figure of agreement."
    )


@dataclass(frozen=True)
class Row:
    """One method of one kind in the agreement table; `own` says that it is the page's, cells are (value, interval)."""

    method: str
    own: bool
    cells: list[tuple[str, str]]


def agreement_rows(tree: Tree) -> list[tuple[str, str, list[Row]]]:
    """Returns (kind, how many cells count, rows) of the agreement table."""
    groups = []
    for kind in KINDS:
        methods: Mapping[str, Any] = (tree["agreement"] or {}).get(kind, {})
        if not methods:
            continue
        first = next(iter(methods.values()))
        excluded = f", {first['excluded']:,} structural zeros excluded" if first["excluded"] else ""
        chance = "" if first["top_chance"] is None else f"; top 10 % by chance {percent(first['top_chance'])}"
        rows = [
            Row(printable(str(name)), name == tree["rules"], [_with_interval(v["metrics"][m]) for m in MEASURES])
            for name, v in methods.items()
        ]
        groups.append((KINDS[kind], f"{first['entries']:,} cells of {first['pairs']} pairs{excluded}{chance}", rows))
    return groups


def _with_interval(mean: Mapping[str, Any]) -> tuple[str, str]:
    if mean["mean"] is None:
        return "–", "undefined"
    if mean["low"] is None:
        return _minus(mean["mean"]), "one pair"
    return _minus(mean["mean"]), f"{_minus(mean['low'])} to {_minus(mean['high'])}"


def _minus(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def circuit_rows(tree: Tree) -> list[tuple[str, bool, str, str]]:
    """Returns rows (method, whether it is the page's own, CPR, CMD) of the table of circuits."""
    return [
        (printable(str(m)), m == tree["rules"], *("–" if v[k] is None else f"{v[k]:.3f}" for k in ("cpr", "cmd")))
        for m, v in (tree["circuits"] or {}).items()
    ]


def cross_check_text(tree: Tree) -> str:
    """Says how far ONNX Runtime's patched logits are from the executor's; "" when that was not measured."""
    if tree["cross_check"] is None:
        return ""
    return (
        "A few patches were repeated in ONNX Runtime by graph surgery, the patched tensor made an input: its logits "
        f"differ from the executor's by {digits(tree['cross_check'])} of the largest logit."
    )


def firings_text(tree: Tree) -> str:
    """Lists how often every rule fired."""
    fired = [f"{rule} {count}" for rule, count in tree["firings"].items() if count]
    return printable(", ".join(fired)) if fired else "none (plain gradients)"
