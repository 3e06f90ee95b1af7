"""`qvit-deploy check`: is a candidate slower, larger or worse than a baseline?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from qvit_deploy.bench.compare.outputs import as_tree
from qvit_deploy.bench.compare.regression import Report, Thresholds
from qvit_deploy.cli import options
from qvit_deploy.cli.console import line, print_json, stdout
from qvit_deploy.commands.check import Outputs, check_files
from qvit_deploy.errors import CheckError, InputError

# ruff: noqa: UP045


def command(
    baseline: Annotated[
        str, typer.Argument(help="JSON of bench, several separated by commas; alone: measured with --against")
    ],
    candidate: Annotated[Optional[str], typer.Argument(help="the same of the candidate")] = None,
    max_slowdown: Annotated[str, typer.Option(help="allowed change of the median latency")] = "3%",
    max_size_growth: Annotated[Optional[str], typer.Option(help="allowed growth of the file, e.g. 1%")] = None,
    max_memory_growth: Annotated[Optional[str], typer.Option(help="allowed growth of the peak memory")] = None,
    min_top1: Annotated[Optional[str], typer.Option(help="least top-1, e.g. 80%")] = None,
    max_top1_drop: Annotated[Optional[str], typer.Option(help="allowed loss of top-1, points: 1% is 1 point")] = None,
    min_agreement: Annotated[Optional[str], typer.Option(help="least agreement with the float model")] = None,
    allow_different_environments: Annotated[
        bool, typer.Option("--allow-different-environments", help="compare other machines, settings, versions anyway")
    ] = False,
    junit_file: Annotated[Optional[Path], typer.Option("--junit", help="write JUnit XML")] = None,
    markdown_file: Annotated[
        Optional[Path], typer.Option("--markdown", help="append a GitHub job summary, e.g. to $GITHUB_STEP_SUMMARY")
    ] = None,
    action_file: Annotated[
        Optional[Path], typer.Option("--benchmark-action", help="write JSON for github-action-benchmark")
    ] = None,
    json: options.Json = False,
) -> None:
    """Compare measurements; exit code 1 if the candidate is slower beyond doubt and threshold, or fails another one."""
    thresholds = Thresholds(
        max_slowdown=_share("--max-slowdown", max_slowdown) or 0.0,
        max_size_growth=_share("--max-size-growth", max_size_growth),
        max_memory_growth=_share("--max-memory-growth", max_memory_growth),
        min_top1=_share("--min-top1", min_top1),
        max_top1_drop=_share("--max-top1-drop", max_top1_drop),
        min_agreement=_share("--min-agreement", min_agreement),
    )
    outputs = Outputs(junit_file, markdown_file, action_file)
    report = check_files(baseline, candidate, thresholds, outputs, allow_different_environments)
    if json:
        print_json(as_tree(report))
    else:
        _print(report)
    if report.failed:
        raise CheckError("regression: " + "; ".join(f"{f.name}: {f.text}" for f in report.criteria if f.failed))


def _share(flag: str, text: str | None) -> float | None:
    """Parses '3%' or '0.03' as 0.03. Raises InputError."""
    if text is None:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise InputError(f"{flag} {text!r}: give a share, e.g. 3% or 0.03")
    return value


def _print(report: Report) -> None:
    stdout.print(report.title, soft_wrap=True)
    for criterion in report.criteria:
        mark = ("FAIL", "red") if criterion.failed else ("ok  ", "green")
        stdout.print(line(mark, f" {criterion.name:<11} {criterion.text}"), soft_wrap=True)
    for note in report.notes:
        stdout.print(f"note: {note}", soft_wrap=True)
