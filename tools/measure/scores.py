"""Compares scores, and the objectives they start from, by the bits they choose at equal budgets.

    python -m tools.measure.scores [REFERENCE_FOLDER] [--model demo:vit,demo:deit] [--mean-bits 5,6]
        [--score lrp,relp,...] [--objective largest-logit,every-logit] [--draws 5]

Each draw calibrates every model anew, on other images. SQNR and agreement with the float model are measured on 256
calibration images that calibration did not use; top-1 on the 1,000 test images is printed for information. With several
draws a cell is the mean and its standard error; differences of two objectives are taken draw by draw, since both see
the same images. The DINOv2 reference (`tools/measure/reference.py`) is compared where its folder is given, and each
`--model`, which brings its own images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from qvit_deploy.cli.console import Bars
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.sweep import Job, run
from qvit_deploy.recipe import Recipe, Score
from qvit_deploy.report.sweep.table import SweepRow
from qvit_deploy.tasks.all_outputs import AllOutputs
from qvit_deploy.tasks.classify import Classify
from qvit_deploy.tasks.registry import TASKS
from qvit_deploy.tasks.task import Objective, Outputs
from tools.measure.reference import MODEL, reference_options

DEMO_DATA = "demo:fashion-mnist"

RANDOM_DEALS = 3


class EveryLogit(Classify):
    """Classification whose objective is that of models with several outputs: all logits, on random signs."""

    name = "every-logit"

    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        """Returns `objective.projection` of the logits."""
        return AllOutputs.objective_for(self, sample, seed)


OBJECTIVES: Mapping[str, str | None] = {"largest-logit": None, EveryLogit.name: EveryLogit.name}
"""Name -> the task that starts from it; None is what a classifier gets anyway."""

Rows = dict[tuple[str, ...], list[SweepRow]]
"""(model, mean bits, score, objective) -> its points, one per draw."""

COLUMNS: Mapping[str, tuple[Callable[[SweepRow], float | None], str]] = {
    "SQNR dB": (lambda row: row.sqnr_db, ".2f"),
    "agreement": (lambda row: row.agreement, ".1%"),
    "top-1": (lambda row: row.top1, ".1%"),
    "test agreement": (lambda row: row.test_agreement, ".1%"),
}
"""Column -> (what it shows of a point, in which format)."""


def mean_text(values: Sequence[float], format: str) -> str:
    """Returns the mean of `values`, with its standard error where there are several."""
    mean = f"{statistics.mean(values):{format}}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:{format.lstrip('+')}}"


def points(job: Job, recipes: Sequence[Recipe], objective: str, rows: Rows) -> None:
    """Measures one draw of one model and adds its points to `rows`."""
    with Bars() as bars:
        measured = run(job, bars)
    for recipe, row in zip(recipes, measured, strict=True):
        score = f"random, deal {recipe.seed - recipes[0].seed}" if row.score == "random" else row.score
        rows.setdefault((job.model, f"{recipe.mean_bits:g}", score, objective), []).append(row)
        shown = {name: value(row) for name, (value, _) in COLUMNS.items()}
        about = {"model": job.model, "mean_bits": recipe.mean_bits, "score": score, "objective": objective}
        print(json.dumps({**about, "draw": recipes[0].seed, **shown}), flush=True)


def table_of(rows: Rows) -> Table:
    """Returns one line per model, budget, score and objective."""
    table = Table("model", "mean bits", "score", "objective", "bits w/a", "MB", *COLUMNS)
    for key, draws in rows.items():
        w, a, size = (
            statistics.mean(getattr(row, field) for row in draws)
            for field in ("mean_w_bits", "mean_a_bits", "weight_bytes")
        )
        cells = [mean_text(_values(draws, column), format) for column, (_, format) in COLUMNS.items()]
        table.add_row(*key, f"{w:.2f}/{a:.2f}", f"{size / 1e6:.2f}", *cells)
    return table


def differences(rows: Rows, first: str, second: str) -> Table:
    """Returns what the second objective is better by than the first, draw by draw."""
    table = Table("model", "mean bits", "score", *COLUMNS, title=f"{second} minus {first}")
    for key, draws in rows.items():
        if key[-1] == first:
            other = (*key[:-1], second)
            cells = []
            for column, (_, format) in COLUMNS.items():
                both = zip(_values(draws, column), _values(rows[other], column), strict=True)
                cells.append(mean_text([after - before for before, after in both], f"+{format}"))
            table.add_row(*key[:-1], *cells)
    return table


def _values(draws: Sequence[SweepRow], column: str) -> list[float]:
    values = [COLUMNS[column][0](row) for row in draws]
    assert all(value is not None for value in values)
    return [value for value in values if value is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path, nargs="?")
    parser.add_argument("--model", default="")
    parser.add_argument("--mean-bits", default="5,6")
    parser.add_argument("--score", default=",".join(get_args(Score)))
    parser.add_argument("--objective", default="largest-logit")
    parser.add_argument("--draws", type=int, default=1)
    arguments = parser.parse_args()
    objectives = arguments.objective.split(",")
    models = {name: InputOptions(calib=DEMO_DATA) for name in arguments.model.split(",") if name}
    if arguments.reference is not None:
        models[MODEL] = reference_options(arguments.reference)

    TASKS[EveryLogit.name] = EveryLogit()
    rows: Rows = {}
    for draw in range(arguments.draws):
        for model, options in models.items():
            for objective in objectives:
                recipes = [
                    Recipe.load(None, mean_bits=float(bits), score=score, seed=seed, task=OBJECTIVES[objective])
                    for bits in arguments.mean_bits.split(",")
                    for score in arguments.score.split(",")
                    for seed in range(draw, draw + (RANDOM_DEALS if score == "random" else 1))
                ]
                points(Job(model, tuple(recipes), options, data=options.calib), recipes, objective, rows)

    console = Console(width=150)
    console.print(table_of(rows))
    for other in objectives[1:]:
        console.print(differences(rows, objectives[0], other))
    row = next(iter(rows.values()))[0]
    console.print(
        f"SQNR and agreement: n={row.images} held-out calibration images a draw; top-1: n={row.test_images} test "
        f"images; {arguments.draws} draws; mean ± standard error; lrp, random and inverted by the {recipes[0].rules} "
        "rules"
    )


if __name__ == "__main__":
    main()
