"""Compares scores by the bits they choose: every score at equal budgets on the DINOv2 reference, from one calibration.

SQNR and agreement with the float model are measured on calibration images that calibration did not use; top-1 on the
1,000 test images is printed for information. `tools/measure/reference.py` says what the reference is.

    python -m tools.measure.scores REFERENCE_FOLDER [--mean-bits 5,6] [--score lrp,relp,...]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from qvit_deploy.cli.console import Bars
from qvit_deploy.pipeline.sweep import Job, run
from qvit_deploy.recipe import Recipe, Score
from tools.measure.reference import MODEL, reference_options

RANDOM_SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--mean-bits", default="5,6")
    parser.add_argument("--score", default=",".join(get_args(Score)))
    arguments = parser.parse_args()
    options = reference_options(arguments.reference)

    recipes = [
        Recipe.load(None, mean_bits=float(bits), score=score, seed=seed)
        for bits in arguments.mean_bits.split(",")
        for score in arguments.score.split(",")
        for seed in (RANDOM_SEEDS if score == "random" else (0,))
    ]
    job = Job(MODEL, tuple(recipes), options, data=options.calib)
    with Bars() as bars:
        rows = run(job, bars)

    table = Table("mean bits", "score", "bits w/a", "MB", "SQNR dB", "agreement", "top-1", "test agreement")
    for recipe, row in zip(recipes, rows, strict=True):
        assert row.top1 is not None and row.test_agreement is not None
        name = f"random, seed {recipe.seed}" if row.score == "random" else row.score
        table.add_row(
            f"{recipe.mean_bits:g}", name, f"{row.mean_w_bits:.2f}/{row.mean_a_bits:.2f}",
            f"{row.weight_bytes / 1e6:.2f}", f"{row.sqnr_db:.2f}", f"{row.agreement:.1%}", f"{row.top1:.1%}",
            f"{row.test_agreement:.1%}",
        )  # fmt: skip
    console = Console(width=110)
    console.print(table)
    console.print(
        f"SQNR and agreement: n={rows[0].images} held-out calibration images; top-1: n={rows[0].test_images} test "
        f"images, float {rows[0].float_top1:.1%}; lrp, random and inverted by the {recipes[0].rules} rules"
    )


if __name__ == "__main__":
    main()
