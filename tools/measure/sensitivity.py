"""Measures how well each score ranks sites: Spearman with the exact one-site-at-a-time sensitivity, on DINOv2.

It compares the losses of every site's activation and weight at every width, from one calibration; the exact ones
quantize one operand at a time and measure the logits. `tools/measure/reference.py` says what the reference is.

    python -m tools.measure.sensitivity REFERENCE_FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from qvit_deploy.cli.console import Bars
from qvit_deploy.pipeline.analysis import analyse
from qvit_deploy.pipeline.inputs import open_inputs
from qvit_deploy.progress import Stopwatch
from qvit_deploy.recipe import Recipe
from tools.measure.reference import MODEL, reference_options

SCORES = ("gradient", "relp", "lrp", "uniform", "random")
WIDTHS = (4, 6, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    arguments = parser.parse_args()
    recipes = [Recipe.load(None, mean_bits=6, score=score) for score in ("exact", *SCORES)]
    with Bars() as bars:
        watch = Stopwatch(bars)
        inputs = open_inputs(MODEL, reference_options(arguments.reference), recipes[0], watch)
        analysis = analyse(inputs, recipes, watch)
    exact = analysis.table(recipes[0]).errors
    table = Table("score", *(f"{operand} at {b} bits" for operand in ("activation", "weight") for b in WIDTHS))
    for recipe in recipes[1:]:
        errors = analysis.table(recipe).errors
        names = [n for n in exact if n in errors and exact[n].activation.keys() >= set(WIDTHS)]
        cells = []
        for operand in ("activation", "weight"):
            for bits in WIDTHS:
                score, truth = (np.array([getattr(e[n], operand)[bits] for n in names]) for e in (errors, exact))
                cells.append(f"{stats.spearmanr(score, truth).statistic:.3f}")
        table.add_row(recipe.score, *cells)
    console = Console(width=120)
    console.print(table)
    console.print(
        f"Spearman over {len(names)} sites with the exact one-site-at-a-time noise to signal ratio of the logits"
    )


if __name__ == "__main__":
    main()
