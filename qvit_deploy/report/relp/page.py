"""Writes the page of `qvit-deploy relp`: which parts of the network carry a decision, and how reliable that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.report.labels import printable
from qvit_deploy.report.relp.completeness_text import sums, warning
from qvit_deploy.report.relp.text import (
    MEASURES,
    agreement_rows,
    circuit_rows,
    cross_check_text,
    firings_text,
    metric_text,
    question,
    strongest_components,
    unreached_text,
)  # fmt: skip
from qvit_deploy.report.templates import render

DESCRIPTIONS = {
    "pictures": "Clean and corrupt picture with the model's classes and the metric",
    "image": "Effects of tokens over the image",
    "blocks": "Effects of attention and MLP by block",
    "tokens": "Effects by layer and token",
    "heads": "Effects by block and head",
    "exact": "Estimated against exact effects of all cells",
    "agreement": "Correlation with exact patching by method",
}
"""What a screen reader says, by the last part of a figure's name."""


def relp_page(tree: Mapping[str, Any], clean: NDArray[np.float32], corrupt: NDArray[np.float32]) -> bytes:
    """Writes the tree of `pipeline.explanation_tree.relp_tree` as one UTF-8 HTML file without scripts or links.

    Args:
        clean, corrupt: inputs of the model, float32 [pairs, C, H, W].
    """
    from markupsafe import Markup

    from qvit_deploy.report.relp.plots import relp_figures
    from qvit_deploy.report.svg import draw

    figures = relp_figures(tree, clean, corrupt)
    plots = {
        name: Markup(draw(name, DESCRIPTIONS[name.rpartition("-")[2]], lambda figure=figure: figure))  # type: ignore[misc]
        for name, figure in figures.items()
    }
    pairs = [
        {
            "name": printable(str(pair["name"])),
            "kind": printable(str(pair["kind"])),
            "warnings": _warnings(pair),
            "metric": metric_text(tree, pair),
            "strongest": strongest_components(tree, pair),
            "unreached": unreached_text(pair),
            "incomplete": warning(tree, pair),
            "sums": sums(pair),
            "plots": {k: plots.get(f"pair-{index}-{k}") for k in ("pictures", "image", "blocks", "tokens", "heads")},
        }
        for index, pair in enumerate(tree["pairs"])
    ]
    return render(
        "relp/relp.html.jinja",
        model=printable(str(tree["model"])),
        question=question(tree),
        direction=tree["direction"],
        pairs=pairs,
        warned=sum(bool(pair["warnings"]) for pair in pairs),
        exact=plots.get("exact"),
        agreement=plots.get("agreement"),
        measures=list(MEASURES.values()),
        groups=agreement_rows(tree),
        circuits=circuit_rows(tree),
        cross_check=cross_check_text(tree),
        firings=firings_text(tree),
        rules=printable(str(tree["rules"])),
        schema=printable(str(tree["schema"])),
    )


def _warnings(pair: Mapping[str, Any]) -> list[str]:
    warnings = [printable(str(w)) for w in pair["warnings"]]
    if pair["out_of_distribution"] and not any("distribution" in w for w in warnings):
        warnings.insert(0, "The corrupt image is out of distribution: no trained model has seen its like.")
    return warnings
