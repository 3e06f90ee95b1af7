"""Formats the trees of numbers of `relp` as lines."""

from __future__ import annotations

from typing import Any


def relp_lines(tree: dict[str, Any]) -> list[str]:
    """Returns the strongest components of every pair, and the agreement of estimates with exact patching."""
    from qvit_deploy.report.relp import completeness_text
    from qvit_deploy.report.relp.text import task_of

    answer = task_of(tree).words.answer
    lines = [f"{tree['model']}: {tree['metric']}, {tree['rules']}, {tree['direction']}"]
    for pair in tree["pairs"]:
        clean, corrupt = (
            ("" if pair[f"{side}_class"] is None else f"{answer} {pair[f'{side}_class']} at ")
            + f"{pair[side]:+.2f} {side}"
            for side in ("clean", "corrupt")
        )
        lines.append(f"{pair['name']} ({pair['kind']}): {clean}, {corrupt}")
        lines += [
            f"  note: {warning}" for warning in [*pair["warnings"], completeness_text.warning(tree, pair)] if warning
        ]
        for kind in ("attention", "mlp", "head"):
            components = [c for c in pair["components"] if c["kind"] == kind]
            if components:
                lines.append(f"  {kind:<9} " + ", ".join(_strongest(kind, components)))
    for kind, methods in (tree["agreement"] or {}).items():
        correlations = [
            f"{method} {summary['metrics']['pearson']['mean']:.3f}"
            for method, summary in methods.items()
            if summary["metrics"]["pearson"]["mean"] is not None
        ]
        lines.append(f"Pearson with exact patching, {kind:<9} " + ", ".join(correlations))
    if tree["circuits"]:
        areas = [f"{m} {c['cpr']:.2f}/{c['cmd']:.2f}" for m, c in tree["circuits"].items() if c["cpr"] is not None]
        lines.append("CPR (1 is best) / CMD (0 is best): " + ", ".join(areas))
    if tree["cross_check"] is not None:
        lines.append(f"ONNX Runtime agrees on patched logits to {tree['cross_check']:.0e} of the largest")
    return lines


def _side(answer: str, pair: dict[str, Any], name: str) -> str:
    decided = pair[f"{name}_class"]
    return ("" if decided is None else f"{answer} {decided} at ") + f"{pair[name]:+.2f} {name}"


def _strongest(kind: str, components: list[dict[str, Any]]) -> list[str]:
    """Returns the three largest effects: of outputs summed over tokens, of heads one by one."""
    if kind == "head":
        cells = [(e, f"{c['label']} head {i}") for c in components for i, e in enumerate(c["effects"])]
    else:
        cells = [(sum(c["effects"]), c["label"]) for c in components]
    return [f"{name} {effect:+.2f}" for effect, name in sorted(cells, key=lambda cell: -abs(cell[0]))[:3]]


def drift_lines(tree: dict[str, Any]) -> list[str]:
    """Returns how much quantization changes the metric, and the sites that change it most."""
    from qvit_deploy.report.relp.drift_page import beyond_text
    from qvit_deploy.report.relp.text import task_of

    agreement = tree["agreement"]
    rms = (sum((a - b) ** 2 for a, b in zip(tree["after"], tree["before"], strict=True)) / tree["images"]) ** 0.5
    changed = tree["changed_predictions"]
    lines = [
        f"{tree['model']}: {tree['metric']} moves by {rms:.3f} (root mean square, n={tree['images']})"
        + ("" if changed is None else f", {changed} {task_of(tree).words.answers} change")
    ]
    if agreement["pearson"] is not None:
        lines.append(
            f"the sum over sites gives it with Pearson {agreement['pearson']:.3f}, slope {agreement['slope']:.2f}, "
            f"error {agreement['normalized_error']:.1%}"
        )
    if warning := beyond_text(tree):
        lines.append(f"note: {warning}")
    worst = sorted(tree["sites"], key=lambda s: -s["rms_effect"])
    width = max(len(s["name"]) for s in worst)
    lines.append(f"{'site':<{width}}  bits   effect  error   share of the drift")
    for s in worst[:8]:
        share = "" if s["share"] is None else f"{s['share']:6.1%}"
        bits = f"w{s['w_bits']}a{s['a_bits']}"
        lines.append(f"{s['name']:<{width}}  {bits:<5}  {s['rms_effect']:6.3f}  {s['error']:5.1%}  {share}")
    return lines
