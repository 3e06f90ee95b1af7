"""Measures how far the bits of a model with several outputs depend on the random signs of its objective.

    python -m tools.measure.projections [--model two-heads,pyramid] [--method gradient,lrp,deep-taylor]
        [--mean-bits 6] [--seeds 8] [--passes 1,4]

Every model is trained and calibrated once; the score is then computed with other signs, by so many passes over its 32
images (each pass draws signs anew for every image), and SQNR of the worst output is measured on 256 calibration images
that calibration did not use. "move" is how far the scores move with the signs: the standard deviation over seeds of a
layer's share of all scores, summed over layers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import nn

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.frontend.torch_module import from_torch
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.sweep import Job, run
from qvit_deploy.quantize.scoring import rank
from qvit_deploy.recipe import Recipe
from tools.measure.outputs import DATA, SIDE
from tools.train import pyramid, two_heads
from tools.train.reference import MEAN, STD

MODELS: dict[str, Callable[[], nn.Module]] = {
    "two-heads": lambda: two_heads.train(*two_heads.shipped("calib"), 50, 0),
    "pyramid": lambda: pyramid.train(*two_heads.shipped("calib"), 50, 0),
}
METHODS = {"gradient": ("gradient", "attnlrp"), "lrp": ("lrp", "attnlrp"), "deep-taylor": ("lrp", "deep-taylor")}
"""What a table says -> (score, rules)."""


class Repeated:
    """Passes a score several times over its images, and keeps what it finds."""

    def __init__(self, score: rank.Score, passes: int) -> None:
        self.score, self.passes = score, passes
        self.found: list[np.ndarray] = []

    def rank(self, job: rank.ScoringJob) -> rank.LossTable:
        """Returns the table over all passes."""
        table = self.score.rank(replace(job, batches=[batch for _ in range(self.passes) for batch in job.batches]))
        shares = np.array(list(table.scores.values.values()))
        self.found.append(shares / shares.sum())
        return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=",".join(MODELS))
    parser.add_argument("--method", default=",".join(METHODS))
    parser.add_argument("--mean-bits", type=float, default=6)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--passes", default="1,4")
    arguments = parser.parse_args()
    preprocess = Preprocess(input_size=(1, SIDE, SIDE), mean=(MEAN,), std=(STD,), interpolation="bicubic", color="grey")
    options = InputOptions(DATA, preprocess=preprocess)
    table = Table("model", "score", "passes", "worst SQNR dB: mean, sd, lowest", "move")
    for model in arguments.model.split(","):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{model}.onnx"
            path.write_bytes(from_torch(MODELS[model](), (1, SIDE, SIDE), model).serialize())
            for method in arguments.method.split(","):
                score, rules = METHODS[method]
                for passes in map(int, arguments.passes.split(",")):
                    recipes = [
                        Recipe.load(None, mean_bits=arguments.mean_bits, score=score, rules=rules, seed=seed)
                        for seed in range(arguments.seeds)
                    ]
                    plain = rank.SCORES[score]
                    repeated = Repeated(plain, passes)
                    rank.SCORES[score] = replace(plain, rank=repeated.rank)
                    try:
                        rows = run(Job(str(path), tuple(recipes), options, measure=True))
                    finally:
                        rank.SCORES[score] = plain
                    worst = [row.sqnr_db for row in rows if row.sqnr_db is not None]
                    shares = np.stack(repeated.found)
                    cells = (
                        f"{statistics.mean(worst):.2f}, {statistics.stdev(worst):.2f}, {min(worst):.2f}",
                        f"{shares.std(0, ddof=1).sum():.1%}",
                    )
                    print(model, method, passes, *cells, sep=" | ", flush=True)
                    table.add_row(model, method, str(passes), *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
