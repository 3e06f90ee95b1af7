"""`qvit-deploy import-trtexec`: a recording of NVIDIA's trtexec as a measurement that `check` compares."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from qvit_deploy.bench.trtexec import Recording
from qvit_deploy.cli import options
from qvit_deploy.cli.measurement_text import report
from qvit_deploy.commands.import_trtexec import import_trtexec

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045


def command(
    engine: Annotated[Path, typer.Argument(help="the engine that trtexec ran")],
    times: Annotated[Path, typer.Option(help="what trtexec --exportTimes wrote")],
    profile: Annotated[Optional[Path], typer.Option(help="and --exportProfile")] = None,
    layers: Annotated[Optional[Path], typer.Option(help="and --exportLayerInfo")] = None,
    log: Annotated[Optional[Path], typer.Option(help="and what it printed: its version and flags")] = None,
    batch: Annotated[Optional[int], typer.Option(help="images per run; default: 1")] = None,
    out: Annotated[Optional[Path], typer.Option("-o", "--out", help="JSON file")] = None,
    json: options.Json = False,
) -> None:
    """Read what trtexec recorded on this machine; runs nothing."""
    measurement, place = import_trtexec(engine, Recording(times, profile, layers, log), batch, out)
    report(measurement, place, json)
