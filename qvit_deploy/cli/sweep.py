"""`qvit-deploy sweep`: budgets x scores x models from one calibration each, as one Pareto table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer
from rich.table import Table

from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, print_json, short, stdout
from qvit_deploy.commands.request import SweepRequest
from qvit_deploy.commands.sweep import sweep_models
from qvit_deploy.report.sweep.table import SweepRow, as_tree
from qvit_deploy.tasks.classify import CLASSIFY

# ruff: noqa: UP045


@options.request_options
def command(
    models: Annotated[list[str], typer.Argument(help="MODEL of `compile`, one or several")],
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="folder for sweep.json, sweep.csv and sweep.svg")
    ] = None,
    *,
    request: SweepRequest,
    measure: Annotated[
        bool, typer.Option("--measure", help="emit every model and compare it with float on held-out images")
    ] = False,
    data: Annotated[
        Optional[str], typer.Option(help="test images, labelled for top-1, mIoU, ...; measures too")
    ] = None,
    labels: options.Labels = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="where models run: here in turn, or on a Ray cluster")
    ] = "local",
    force: Annotated[bool, typer.Option("--force", help="replace an existing sweep")] = False,
    json: options.Json = False,
) -> None:
    """Try many budgets and scores after one calibration: predicted loss, cost and, with --measure, the real loss."""
    with Bars() as bars:
        rows = sweep_models(
            models,
            request,
            measure=measure,
            data=data,
            labels=labels,
            engine=engine,
            out=out,
            force=force,
            progress=bars,
        )  # fmt: skip
    if json:
        print_json(as_tree(rows))
        return
    for title, table in _tables(rows):
        # A long path that is broken into lines can be neither copied nor searched for.
        stdout.print(title, style="italic", soft_wrap=True)
        stdout.print(table)
    stdout.print(_legend(rows[0]), soft_wrap=True)
    if out is not None:
        stdout.print(f"written to {out}", soft_wrap=True)


def _tables(rows: Sequence[SweepRow]) -> Iterator[tuple[str, Table]]:
    """Yields a title and a table for each model, with the columns for which its rows have values."""
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
        model_rows = [row for row in rows if row.model == model]
        score, figure = model_rows[0].float_top1, model_rows[0].figure
        float_score = "" if score is None else f", float {CLASSIFY.words.score} {CLASSIFY.score_text(score)}"
        if figure is not None and figure.of_float is not None:
            float_score = f", float {figure.name} {figure.form.format(figure.of_float)}"
        table = Table(box=None, pad_edge=False, collapse_padding=True)
        shown = [*columns, ("" if figure is None else figure.name, _figure)]
        for name, cell in shown:
            if any(cell(row) for row in model_rows):
                table.add_column(name, justify="left" if name in ("score", "budget") else "right", no_wrap=True)
        for row in model_rows:
            cells = [cell(row) for _, cell in shown if any(cell(r) for r in model_rows)]
            table.add_row(*cells)
        yield f"{model}{float_score}", table


def _figure(row: SweepRow) -> str:
    return "" if row.figure is None else row.figure.shown


def _legend(row: SweepRow) -> str:
    front = "* on the Pareto front; loss: predicted by the score, comparable within one score"
    if row.images is None:
        return f"{front}, measured with --measure"
    images = "held-out calibration images" if row.held_out else "calibration images (none were left over)"
    legend = f"{front}\nSQNR in dB and agreement with float on {row.images} {images}"
    score = CLASSIFY.words.score if row.figure is None else " ".join(filter(None, (row.figure.name, row.figure.note)))
    if row.test_images is None or (row.figure is None and row.float_top1 is None):
        return legend
    return f"{legend}; {score} on n={row.test_images}"
