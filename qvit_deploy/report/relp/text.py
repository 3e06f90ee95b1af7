"""What RelP's numbers say, in sentences and table cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qvit_deploy.report.labels import block_names, printable
from qvit_deploy.report.numbers import NARROW, digits, percent
from qvit_deploy.report.relp.heat import KINDS, Tree, dead, effects, front_names, of_kind
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.registry import task_called
from qvit_deploy.tasks.task import Task

RULE_WORDS = {
    "gradient": "plain gradients (attribution patching)",
    "relp": "RelP's rules (relp)",
    "relp-ah": "RelP's rules, attention probabilities held fixed (relp-ah)",
}
MEASURES = {
    "pearson": "Pearson", "spearman": "Spearman", "slope": "slope", "normalized_error": "normalized error",
    "sign_agreement": "sign", "top_precision": "top 10 %",
}  # fmt: skip
"""The fields of `patching.agreement.Summary` as columns."""


def task_of(tree: Tree) -> Task:
    """What the outputs of the explained model mean; a tree that does not say is about a classifier."""
    return task_called(str(tree.get("task", CLASSIFY.name)))


def question(tree: Tree) -> str:
    """What was asked, in one sentence."""
    what = task_of(tree).metric_text(str(tree["metric"]))
    base, source = ("corrupt", "clean") if tree["direction"] == "denoising" else ("clean", "corrupt")
    rules = RULE_WORDS.get(tree["rules"], f"the {tree['rules']} rules")
    return printable(
        f"How much would {what} change if one cell of the {base} image's run were replaced by its value in the "
        f"{source} image's run? Estimated for all cells at once with {rules}, from two forward "
        "passes and one backward pass."
    )


def metric_of(tree: Tree, pair: Tree) -> str:
    """The metric of a pair with its classes, as far as the tree says them."""
    text = task_of(tree).pair_metric_text(str(tree["metric"]), pair["clean_class"], pair["corrupt_class"])
    return printable(text)


def change(tree: Tree, pair: Tree) -> float:
    """What patching everything does to the metric: the measure of every effect of the pair."""
    gained = float(pair["clean"]) - float(pair["corrupt"])
    return gained if tree["direction"] == "denoising" else -gained


def carriers(tree: Tree, pair: Tree) -> str:
    """Which blocks, heads and tokens carry the decision."""
    whole = change(tree, pair)
    if not whole:
        return "The metric is the same on both images: there is no difference to be carried."
    parts = []
    sums = [
        (float(effects(c).sum()), f"{word} of block {name}")
        for kind, word in (("attention", "attention"), ("mlp", "the MLP"))
        for c, name in zip(of_kind(pair, kind), _names(of_kind(pair, kind)), strict=True)
    ]
    ranked = sorted(sums, key=lambda s: -s[0] * np.sign(whole))
    best = [(value, name) for value, name in ranked[:3] if value * whole > 0]
    if best:
        (value, name), rest = best[0], best[1:]
        sentence = f"{name[0].upper()}{name[1:]} carries an estimated {_share(value, whole)} of the difference of "
        sentence += digits(abs(whole))
        if rest:
            sentence += ", followed by " + " and ".join(f"{n} ({_share(v, whole)})" for v, n in rest)
        parts.append(sentence + ".")
    against = [(v, n) for v, n in ranked[::-1][:1] if v * whole < -0.05 * whole**2]
    parts += [f"{n[0].upper()}{n[1:]} works against it ({_share(v, whole)})." for v, n in against]
    heads = of_kind(pair, "head")
    cells = [(float(v), f"head {i} of block {name}") for c, name in zip(heads, _names(heads), strict=True)
             for i, v in enumerate(effects(c))]  # fmt: skip
    if cells:
        value, name = max(cells, key=lambda cell: abs(cell[0]))
        parts.append(f"The strongest head is {name} ({_share(value, whole)}).")
    if (token := _token(pair, whole)) is not None:
        parts.append(token)
    return " ".join(parts)


def _token(pair: Tree, whole: float) -> str | None:
    """The token through which most of the attention's and MLPs' effect goes, of the components on the finest grid."""
    written = [c for kind in ("attention", "mlp") for c in of_kind(pair, kind) if c["grid"] is not None]
    grids = list(dict.fromkeys(tuple(c["grid"]) for c in written))
    if len(grids) != 1:
        return None
    front, _, columns = grids[0]
    totals = np.sum([effects(c) for c in written], axis=0)
    index = int(np.abs(totals).argmax())
    name = f"the {front_names(front)[index]} token" if index < front else _place(index - front, columns)
    return f"Of all tokens most goes through {name} ({_share(float(totals[index]), whole)}, all blocks together)."


def _names(components: Sequence[Tree]) -> list[str]:
    return block_names([str(c["label"]) for c in components])


def _place(patch: int, columns: int) -> str:
    return f"the patch in row {patch // columns + 1}, column {patch % columns + 1}"


def _share(value: float, whole: float) -> str:
    share = round(100 * value / whole)
    return f"{'−' if share < 0 else ''}{abs(share)}{NARROW}%"


def excluded(pair: Tree) -> str:
    """What is hatched, and that it does not count."""
    cells = sum(int(dead(c).sum()) for c in pair["components"])
    if not cells:
        return ""
    return (
        f"Hatched: {cells} cells that nothing reads any more (structural zeros, such as patch tokens behind the last "
        "attention of a class-token model); they are excluded from the scales and from every figure of agreement."
    )


@dataclass(frozen=True)
class Row:
    """One method of one kind in the agreement table."""

    method: str
    own: bool
    cells: list[tuple[str, str]]


def agreement_rows(tree: Tree) -> list[tuple[str, str, list[Row]]]:
    """(kind, how many cells count, rows) of the agreement table."""
    groups = []
    for kind in KINDS:
        methods: Mapping[str, Any] = (tree["agreement"] or {}).get(kind, {})
        if not methods:
            continue
        first = next(iter(methods.values()))
        left_out = f", {first['excluded']:,} structural zeros excluded" if first["excluded"] else ""
        chance = "" if first["top_chance"] is None else f"; top 10 % by chance {percent(first['top_chance'])}"
        rows = [
            Row(printable(str(name)), name == tree["rules"], [_measured(found["metrics"][m]) for m in MEASURES])
            for name, found in methods.items()
        ]
        groups.append((KINDS[kind], f"{first['entries']:,} cells of {first['pairs']} pairs{left_out}{chance}", rows))
    return groups


def _measured(mean: Mapping[str, Any]) -> tuple[str, str]:
    if mean["mean"] is None:
        return "–", "undefined"
    if mean["low"] is None:
        return _minus(mean["mean"]), "one pair"
    return _minus(mean["mean"]), f"{_minus(mean['low'])} to {_minus(mean['high'])}"


def _minus(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def circuit_rows(tree: Tree) -> list[tuple[str, bool, str, str]]:
    """(method, whether it is the page's own, CPR, CMD)."""
    return [
        (printable(str(m)), m == tree["rules"], *("–" if v[k] is None else f"{v[k]:.3f}" for k in ("cpr", "cmd")))
        for m, v in (tree["circuits"] or {}).items()
    ]


def cross_check(tree: Tree) -> str:
    """How far ONNX Runtime's patched logits are from the executor's."""
    if tree["cross_check"] is None:
        return ""
    return (
        "A few patches were repeated in ONNX Runtime by graph surgery, the patched tensor made an input: its logits "
        f"differ from the executor's by {digits(tree['cross_check'])} of the largest logit."
    )


def firings(tree: Tree) -> str:
    fired = [f"{rule} {count}" for rule, count in tree["firings"].items() if count]
    return printable(", ".join(fired)) if fired else "none (plain gradients)"
