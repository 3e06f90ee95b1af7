"""One run of `qvit-deploy sweep`; imports torch only when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qvit_deploy.artifacts.atomic import write_files
from qvit_deploy.artifacts.json_text import json_file
from qvit_deploy.commands.request import SweepRequest
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress
from qvit_deploy.report.sweep.plot import sweep_plot
from qvit_deploy.report.sweep.table import SweepRow, as_csv, as_tree

FILES = ("sweep.json", "sweep.csv", "sweep.svg")


def sweep_models(
    models: Sequence[str],
    request: SweepRequest,
    *,
    measure: bool,
    data: str | None,
    labels: str | None,
    engine: str,
    out: Path | None,
    force: bool,
    progress: Progress,
) -> list[SweepRow]:
    """Returns a row for every model, score and budget, and writes them to the folder `out` as JSON, CSV and a plot.

    Args:
        measure, data, labels: see `pipeline.sweep.Job`.
        engine: see `pipeline.sweep.sweep`.
        force: replace a sweep that is in `out`.

    Raises:
        InputError: an argument cannot be used, or the compile half is not installed.
        BudgetError: a budget cannot be met.
    """
    base, lists = request.load_recipe(), request.lists
    budgets = [(field, value) for field, values in lists.items() if field != "score" for value in values]
    if not budgets:
        raise InputError("a sweep needs budgets: pass --mean-bits 4,5,6, --max-size, --max-bitops or --max-latency")
    if request.options.checkpoint is not None and len(models) > 1:
        raise InputError("--checkpoint has the weights of one model; sweep the models one by one")
    if labels is not None and data is None:
        raise InputError("--labels are of the test images: pass --data with them")
    if out is not None:
        _check_folder(out, force)
    try:
        from qvit_deploy.pipeline.sweep import Job, plan_recipes, sweep
    except ImportError as error:
        raise InputError(f'a sweep compiles, which needs {error.name}: pip install "qvit-deploy[compile]"') from error
    recipes = tuple(plan_recipes(base, lists.get("score") or [base.score], budgets))
    base_job = Job(models[0], recipes, request.options, measure=measure, data=data, labels=labels, cache=request.cache)
    jobs = [replace(base_job, model=model) for model in models]
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
