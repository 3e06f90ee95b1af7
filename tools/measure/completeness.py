"""Measures from which completeness on the sizes of estimates are wrong, against exact patching.

For every place of the residual stream of every pair it takes the sum of the estimates over the true difference of the
metric, and the normalized error of the same estimates against exact patching (1 is that of a map of zeros). Exact maps
are stored in the work folder, so the same command goes on after an interruption.

    python -m tools.measure.completeness WORK_FOLDER [--model demo:vit ...] [--pairs 10]
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qvit_deploy.patching.agreement import compare
from qvit_deploy.patching.completeness import FACTOR, completeness
from qvit_deploy.pipeline.exact_maps import ExactMaps
from qvit_deploy.pipeline.explain import Explanation, explain
from tools.measure.relp import DEMOS, RULES, compiled, patched_pairs

BINS = (-np.inf, 0.0, 1 / FACTOR, FACTOR, 1.5 * FACTOR, np.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--model", action="append", choices=DEMOS, help="only these")
    parser.add_argument("--pairs", type=int, default=10)
    arguments = parser.parse_args()
    by_rules: dict[str, list[tuple[float, float]]] = {rules: [] for rules in ("gradient", *RULES)}
    for model in arguments.model or DEMOS:
        file, data = compiled(model, "float", arguments.work, None)
        pairs, truth = patched_pairs(file, data, arguments.work, arguments.pairs, processes=1)
        for rules, points in by_rules.items():
            points += streams(explain(file, pairs, rules=rules), truth)
    Console(width=110).print(_table(by_rules))


def streams(explanation: Explanation, truth: ExactMaps) -> list[tuple[float, float]]:
    """Returns (completeness, normalized error) of the residual stream at every place of every pair."""
    points = []
    for pair in explanation.pairs:
        exact = truth.of(pair.pair, explanation.components)
        for component in (c for c in explanation.components if c.kind == "residual"):
            share = completeness(pair.effects[component], pair.clean - pair.corrupt)
            counts = pair.reached[component]
            error = compare(pair.effects[component], exact[component], counts).normalized_error
            if share is not None and error is not None:
                points.append((share, error))
    return points


def _table(by_rules: dict[str, list[tuple[float, float]]]) -> Table:
    table = Table(title="median normalized error of the residual stream by completeness (share of places)")
    table.add_column("rules")
    for low, high in itertools.pairwise(BINS):
        table.add_column(f"{low:g} to {high:g}", justify="right")
    table.add_column("beyond", justify="right")
    for rules, points in by_rules.items():
        shares, errors = np.array(points).T
        cells = []
        for low, high in itertools.pairwise(BINS):
            inside = (shares >= low) & (shares < high)
            cells.append(f"{np.median(errors[inside]):.2f} ({inside.mean():.0%})" if inside.any() else "-")
        off = (shares < 1 / FACTOR) | (shares > FACTOR)
        table.add_row(rules, *cells, f"{off.mean():.0%}")
    return table


if __name__ == "__main__":
    main()
