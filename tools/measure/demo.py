"""Measures top-1 of the shipped models on all 10,000 Fashion-MNIST test images, float and with everything quantized.

    python -m tools.measure.demo DATA [--model demo:vit ...] [--uniform w8a8,w6a6,w4a4]

DATA is a folder with Fashion-MNIST's idx files (Debian: `apt-get install dataset-fashion-mnist`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qvit_deploy.cli.console import Bars
from qvit_deploy.pipeline.sweep import Job, run
from qvit_deploy.recipe import Recipe
from tools.train.reference import REFERENCES, load_split


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    demos = [f"demo:{name}" for name in REFERENCES]
    parser.add_argument("--model", action="append", choices=demos, help="only these")
    parser.add_argument("--uniform", default="w8a8,w6a6,w4a4")
    arguments = parser.parse_args()
    widths = arguments.uniform.split(",")
    recipes = tuple(Recipe.load(None, uniform=width, attention="integer") for width in widths)
    images, labels = load_split(arguments.data, "t10k")
    table = Table(f"top-1, n = {len(labels):,}", "float", *widths)
    with tempfile.TemporaryDirectory() as folder:
        test = Path(folder) / "test.npz"
        np.savez(test, images=images, labels=labels)
        for model in arguments.model or demos:
            with Bars() as bars:
                rows = run(Job(model=model, recipes=recipes, data=str(test)), bars)
            accuracies = [rows[0].float_top1, *(row.top1 for row in rows)]
            table.add_row(model, *(f"{top1:.1%}" for top1 in accuracies if top1 is not None))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
