"""One run of `qvit-deploy sweep`; imports torch only when it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qvit_deploy.artifacts.atomic import write_files
from qvit_deploy.artifacts.json_text import json_file
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress
from qvit_deploy.recipe import Recipe
from qvit_deploy.report.sweep.plot import sweep_plot
from qvit_deploy.report.sweep.table import SweepRow, as_csv, as_tree

FILES = ("sweep.json", "sweep.csv", "sweep.svg")


def sweep_models(
    models: Sequence[str],
    choices: Mapping[str, Any],
    lists: Mapping[str, Sequence[Any]],
    *,
    recipe: Path | None = None,
    effort: str | None = None,
    calib: str | None = None,
    checkpoint: Path | None = None,
    pretrained: bool = False,
    preprocess: Path | None = None,
    skip_bad_images: bool = False,
    measure: bool = False,
    data: str | None = None,
    cache: Path | None = None,
    engine: str = "local",
    out: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> list[SweepRow]:
    """Returns a row for every model, score and budget, and writes them to the folder `out` as JSON, CSV and a plot.

    Args:
        choices: fields of the recipe that all rows share.
        lists: field of the recipe -> its values, for budgets, uniform widths and scores.
        preprocess: JSON that says how images are prepared.

    The others are those of `pipeline.sweep.Job` and `pipeline.sweep.sweep`.

    Raises:
        InputError: an argument cannot be used, or the compile half is not installed.
        BudgetError: a budget cannot be met.
    """
    base = Recipe.load(recipe, effort=effort, **choices)
    budgets = [(field, value) for field, values in lists.items() if field != "score" for value in values]
    if not budgets:
        raise InputError("a sweep needs budgets: pass --mean-bits 4,5,6, --max-size, --max-bitops or --max-latency")
    if checkpoint is not None and len(models) > 1:
        raise InputError("--checkpoint has the weights of one model; sweep the models one by one")
    if out is not None:
        _check_folder(out, force)
    try:
        from qvit_deploy.pipeline.sweep import Job, plan_recipes, sweep
    except ImportError as error:
        raise InputError(f'a sweep compiles, which needs {error.name}: pip install "qvit-deploy[compile]"') from error
    recipes = tuple(plan_recipes(base, lists.get("score") or [base.score], budgets))
    prepared = None if preprocess is None else Preprocess.from_file(preprocess)
    jobs = [
        Job(
            model=model,
            recipes=recipes,
            calib=calib,
            checkpoint=checkpoint,
            pretrained=pretrained,
            preprocess=prepared,
            skip_bad_images=skip_bad_images,
            measure=measure,
            data=data,
            cache=cache,
        )
        for model in models
    ]
    rows = sweep(jobs, engine, progress)
    if out is not None:
        write_files(
            out, dict(zip(FILES, (json_file(as_tree(rows)), as_csv(rows).encode(), sweep_plot(rows)), strict=True))
        )
    return rows


def _check_folder(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} exists and is not a folder; choose another output")
    present = [name for name in FILES if (out / name).exists()]
    if present and not force:
        raise InputError(f"{out} holds {present[0]}; choose another output or pass --force to replace it")
