"""`qvit-deploy sweep`: budgets x scores x models from one calibration each, as one Pareto table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer
from rich.table import Table

from qvit_deploy.artifacts.atomic import write_files
from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, json_text, print_json, short, stdout, whole_numbers
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.recipe import Recipe
from qvit_deploy.report.sweep.plot import sweep_plot
from qvit_deploy.report.sweep.table import SweepRow, as_csv, as_tree
from qvit_deploy.tasks.classify import CLASSIFY

# ruff: noqa: UP045

FILES = ("sweep.json", "sweep.csv", "sweep.svg")


def command(
    models: Annotated[list[str], typer.Argument(help="MODEL of `compile`, one or several")],
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="folder for sweep.json, sweep.csv and sweep.svg")
    ] = None,
    calib: options.Calib = None,
    checkpoint: options.Checkpoint = None,
    pretrained: options.Pretrained = False,
    preprocess: options.PreprocessFile = None,
    mean_bits: Annotated[Optional[str], typer.Option(help="budgets: mean bits, e.g. 4,4.5,5")] = None,
    max_size: Annotated[Optional[str], typer.Option(help="budgets: packed weights, MB")] = None,
    max_bitops: Annotated[Optional[str], typer.Option(help="budgets: giga BitOps per image")] = None,
    max_latency: Annotated[Optional[str], typer.Option(help="budgets: ms of all sites by --latency-table")] = None,
    uniform: Annotated[Optional[str], typer.Option(help="one width everywhere, to compare with: w4a4,w6a6")] = None,
    latency_table: options.LatencyTable = None,
    score: Annotated[Optional[str], typer.Option(help="what ranks layers, e.g. lrp,relp (see `compile`)")] = None,
    effort: options.Effort = None,
    bits: options.Bits = None,
    separate_bits: options.SeparateBits = None,
    images: options.Images = None,
    recipe: Annotated[Optional[Path], typer.Option(help="TOML file with any other choice; flags win")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="emit every model and compare it with float on held-out images")
    ] = False,
    data: Annotated[Optional[str], typer.Option(help="labelled test images for top-1; measures too")] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="where models run: here in turn, or on a Ray cluster")
    ] = "local",
    skip_bad_images: options.SkipBadImages = False,
    cache: options.Cache = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing sweep")] = False,
    json: options.Json = False,
) -> None:
    """Many budgets and scores from one calibration: predicted loss, cost and, with --measure, the real loss."""
    base = Recipe.load(
        recipe,
        effort=effort,
        latency_table=latency_table,
        bits=None if bits is None else whole_numbers("--bits", bits),
        separate_bits=separate_bits,
        calibration_images=images,
    )
    budgets: list[tuple[str, float | str]] = [
        *_numbers("mean_bits", "--mean-bits", mean_bits),
        *_numbers("max_size_mb", "--max-size", max_size),
        *_numbers("max_bitops_g", "--max-bitops", max_bitops),
        *_numbers("max_latency_ms", "--max-latency", max_latency),
        *(("uniform", width) for width in (uniform.split(",") if uniform else ())),
    ]
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
    recipes = tuple(plan_recipes(base, score.split(",") if score else [base.score], budgets))
    jobs = [
        Job(
            model=model,
            recipes=recipes,
            calib=calib,
            checkpoint=checkpoint,
            pretrained=pretrained,
            preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
            skip_bad_images=skip_bad_images,
            measure=measure,
            data=data,
            cache=cache,
        )
        for model in models
    ]
    with Bars() as bars:
        rows = sweep(jobs, engine, bars)
    if out is not None:
        _write(out, rows)
    if json:
        print_json(as_tree(rows))
    else:
        for title, table in _tables(rows):
            # A long path that is broken into lines can be neither copied nor searched for.
            stdout.print(title, style="italic", markup=False, soft_wrap=True)
            stdout.print(table)
        stdout.print(_legend(rows[0]), soft_wrap=True)
        if out is not None:
            stdout.print(f"written to {out}", markup=False, soft_wrap=True)


def _numbers(field: str, flag: str, text: str | None) -> list[tuple[str, float | str]]:
    try:
        return [(field, float(part)) for part in (text.split(",") if text else ())]
    except ValueError:
        raise InputError(f"{flag} {text!r}: give numbers separated by commas, e.g. 4,4.5,5") from None


def _check_folder(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} exists and is not a folder; choose another output")
    present = [name for name in FILES if (out / name).exists()]
    if present and not force:
        raise InputError(f"{out} holds {present[0]}; choose another output or pass --force to replace it")


def _write(out: Path, rows: Sequence[SweepRow]) -> None:
    contents = (json_text(as_tree(rows)).encode() + b"\n", as_csv(rows).encode(), sweep_plot(rows))
    write_files(out, dict(zip(FILES, contents, strict=True)))


def _tables(rows: Sequence[SweepRow]) -> Iterator[tuple[str, Table]]:
    """A title and a table per model, with the columns its rows have values for."""
    columns: list[tuple[str, Callable[[SweepRow], str]]] = [
        ("", lambda r: "*" if r.pareto else ""),
        ("score", lambda r: r.score),
        ("budget", lambda r: r.budget),
        ("bits w/a", lambda r: f"{r.mean_w_bits:.2f}/{r.mean_a_bits:.2f}"),
        ("MB", lambda r: f"{r.weight_bytes / 1e6:.2f}"),
        ("BitOps", lambda r: short(r.bitops)),
        ("ms", lambda r: "" if r.latency_ms is None else f"{r.latency_ms:.3g}"),
        ("loss", lambda r: f"{r.loss:.2e}"),
        ("SQNR", lambda r: "" if r.sqnr_db is None else f"{r.sqnr_db:.1f}"),
        ("agree", lambda r: "" if r.agreement is None else f"{r.agreement:.1%}"),
        (CLASSIFY.words.score, lambda r: "" if r.top1 is None else CLASSIFY.score_text(r.top1)),
    ]
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model]
        score = mine[0].float_top1
        beside = "" if score is None else f", float {CLASSIFY.words.score} {CLASSIFY.score_text(score)}"
        table = Table(box=None, pad_edge=False, collapse_padding=True)
        for name, cell in columns:
            if any(cell(row) for row in mine):
                table.add_column(name, justify="left" if name in ("score", "budget") else "right", no_wrap=True)
        for row in mine:
            cells = [cell(row) for _, cell in columns if any(cell(r) for r in mine)]
            table.add_row(*cells)
        yield f"{model}{beside}", table


def _legend(row: SweepRow) -> str:
    front = "* on the Pareto front; loss: predicted by the score, comparable within one score"
    if row.images is None:
        return f"{front}, measured with --measure"
    whose = "held-out calibration images" if row.held_out else "calibration images (none were left over)"
    said = f"{front}\nSQNR in dB and agreement with float on {row.images} {whose}"
    return said if row.float_top1 is None else f"{said}; {CLASSIFY.words.score} on n={row.test_images}"
