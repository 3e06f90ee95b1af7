"""Measures what each rule does to the agreement with exact patching: rules alone and together, on float models.

It prints Pearson correlation and slope (1 is the right size), means over the pairs of `tools/measure/relp.py`, whose
work folder it shares, then the size of the estimates by block: root mean square over tokens and pairs, divided by that
of the exact effects.

    python -m tools.measure.rules WORK_FOLDER [--model demo:vit ...] [--reference FOLDER] [--pairs 20]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.patching.agreement import Agreement, compare, summarise
from qvit_deploy.patching.components import KINDS, find_components
from qvit_deploy.patching.relp import attribute
from qvit_deploy.relevance import rules as r
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.tasks.classify import CLASSIFY
from tools.measure.reference import MODEL
from tools.measure.relp import DEMOS, compiled, patched_pairs, selected_models

NORM = (r.NORM_SIZE, r.LAYER_NORM)
SETS = (
    RuleSet("gradient", ()),
    RuleSet("norm", NORM),
    RuleSet("activation", (r.ACTIVATION,)),
    RuleSet("halved attention products", (r.HALF_MATMUL,)),
    RuleSet("norm, activation (relp)", (*NORM, r.ACTIVATION)),
    RuleSet("norm, halved products", (*NORM, r.HALF_MATMUL)),
    RuleSet("all three (attnlrp)", (*NORM, r.ACTIVATION, r.HALF_MATMUL)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--reference", type=Path, help="folder of the DINOv2 reference; it is left out without")
    parser.add_argument("--model", action="append", choices=DEMOS, help="only these")
    parser.add_argument("--pairs", type=int, default=20)
    arguments = parser.parse_args()
    table = Table("model", "rules", *(f"{kind}: r, slope" for kind in KINDS))
    sizes = Table("model", "rules", "size of attention outputs, from the first block to the last")
    metric = CLASSIFY.parse_metric("logit-diff")
    for model in selected_models(arguments.model, arguments.reference):
        file, data = compiled(model, "float", arguments.work, arguments.reference)
        pairs, truth = patched_pairs(file, data, arguments.work, arguments.pairs, processes=1)
        components = find_components(file.graph)
        for rule_set in SETS:
            executor = Executor(file.graph, overrides=rule_set.bind(file.graph, 1).overrides)
            by_kind: dict[str, list[Agreement]] = {kind: [] for kind in KINDS}
            squares: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
            for pair in pairs:
                clean, corrupt = torch.tensor(pair.clean)[None], torch.tensor(pair.corrupt)[None]
                estimate = attribute(
                    executor, rule_set, components, Examples.images(clean), Examples.images(corrupt), metric, CLASSIFY
                )
                exact = truth.of(pair, components)
                maps = ({c: m[0] for c, m in estimate.effects.items()}, exact)
                for kind in KINDS:
                    of_kind = [c for c in components if c.kind == kind]
                    estimated, true = (np.concatenate([m[c] for c in of_kind]) for m in maps)
                    reached = np.concatenate([estimate.reached[c][0] for c in of_kind])
                    by_kind[kind].append(compare(estimated, true, reached))
                for c in (c for c in components if c.kind == "attention"):
                    size, true_size = (float(np.square(m[c][estimate.reached[c][0]]).sum()) for m in maps)
                    squares[c.block].append((size, true_size))
            means = {kind: summarise(agreements).metrics for kind, agreements in by_kind.items()}
            cells = [" ".join(_digits(means[k][m].mean) for m in ("pearson", "slope")) for k in KINDS]
            name = "DINOv2" if model == MODEL else model
            ratios = [np.sqrt(np.divide(*np.sum(squares[block], axis=0))) for block in sorted(squares)]
            sizes.add_row(name, rule_set.name, " ".join(f"{ratio:.2f}" for ratio in ratios))
            table.add_row(name, rule_set.name, *cells)
    Console(width=120).print(table, sizes)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
