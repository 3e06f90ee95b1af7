"""Writes the page of `qvit-deploy relp --quantization`: which sites change a quantized model's decision, and by how
much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qvit_deploy.report.labels import printable
from qvit_deploy.report.numbers import digits, percent, signed
from qvit_deploy.report.relp.drift_plots import by_block, drift_figures, true_drift
from qvit_deploy.report.relp.text import task_of
from qvit_deploy.report.templates import render

DESCRIPTIONS = {
    "agreement": "Sum of the sites' effects against the true drift, per image",
    "blocks": "Root mean square effect of every block",
    "sites": "Root mean square effect of every site, with its widths",
    "errors": "Relative error of every site's output against its effect",
    "tokens": "Where on the image the drift arises, by depth",
}
WORST = 5
"""Sites that the page lists."""


def drift_page(tree: Mapping[str, Any]) -> bytes:
    """Writes the tree of `pipeline.explanation_tree.drift_tree` as one UTF-8 HTML file without scripts or links."""
    from markupsafe import Markup

    from qvit_deploy.report.svg import draw

    plots = {
        name: Markup(draw(name, DESCRIPTIONS[name], lambda figure=figure: figure))  # type: ignore[misc]
        for name, figure in drift_figures(tree).items()
    }
    return render(
        "relp/drift.html.jinja",
        model=printable(str(tree["model"])),
        summary=_summary(tree),
        agreement=_agreement_text(tree),
        beyond=beyond_text(tree),
        worst=_worst(tree),
        blocks=_worst_block(tree),
        plots={name: plots.get(name) for name in DESCRIPTIONS},
        rules=printable(str(tree["rules"])),
        schema=printable(str(tree["schema"])),
    )


def _summary(tree: Mapping[str, Any]) -> str:
    drift, images = true_drift(tree), int(tree["images"])
    changed, answers = tree["changed_predictions"], task_of(tree).words.answers
    changes = ""
    if changed is not None:
        some, none = f"{changed:,} of {images:,} {answers} change", f"No {answers.removesuffix('s')} changes"
        changes = f" {some if changed else none}."
    metric, size = printable(str(tree["metric"])), _rms(np.asarray(tree["before"], float))
    return (
        f"On {images:,} images quantization moves the metric ({metric}) by {digits(_rms(drift))} rms "
        f"(root mean square over the images), on average by {signed(float(drift.mean()))}, while the metric itself is "
        f"{digits(size)} rms.{changes}"
    )


def beyond_text(tree: Mapping[str, Any]) -> str:
    """Returns a warning when the sum of the sites' effects misses the true drift, else ""."""
    if not tree["beyond"]:
        return ""
    agreement = tree["agreement"]
    other = "" if tree["rules"] == "gradient" else " Use --rules gradient, which fits small errors."
    return (
        f"Do not trust sizes here: the effects add up to {agreement['slope']:.2f} times the true drift and miss "
        f"{percent(agreement['normalized_error'])} of it.{other} "
        "qvit-deploy compile --score exact measures sites one at a time."
    )


def _agreement_text(tree: Mapping[str, Any]) -> str:
    agreement = tree["agreement"]
    parts = []
    if agreement["pearson"] is not None:
        r = f"{agreement['pearson']:.3f}"
        parts.append(f"The sum of the sites' effects follows the true drift with Pearson's r {r}")
    if agreement["slope"] is not None:
        parts.append(f"slope {agreement['slope']:.2f} (1 is the right size)")
    if agreement["normalized_error"] is not None:
        parts.append(f"what it misses is {percent(agreement['normalized_error'])} of the drift")
    text = ", ".join(parts) + "." if parts else "There is no drift to compare the estimate with."
    if tree["unexplained"]:
        text += f" Inputs of sites differ by up to {percent(tree['unexplained'])} in ways that no site accounts for."
    return text


def _worst(tree: Mapping[str, Any]) -> list[str]:
    ranked = sorted(tree["sites"], key=lambda s: -s["rms_effect"])[:WORST]
    return [
        f"{printable(str(s['name']))} (w{_bits(s['w_bits'])}a{_bits(s['a_bits'])}): {digits(s['rms_effect'])} rms"
        + ("" if s["share"] is None else f", {_share(s['share'])} of the drift")
        + f"; its output is off by {percent(s['error'])}"
        for s in ranked
    ]


def _worst_block(tree: Mapping[str, Any]) -> str:
    sums = {name: _rms(effects) for name, effects in by_block(tree).items()}
    if not sums:
        return ""
    name = max(sums, key=lambda n: sums[n])
    return f"Most arises in {printable(name)}: {digits(sums[name])} rms."


def _share(share: float) -> str:
    return f"{'−' if share < 0 else ''}{percent(abs(share))}"


def _bits(bits: int | None) -> str:
    return "float" if bits is None else str(bits)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))
