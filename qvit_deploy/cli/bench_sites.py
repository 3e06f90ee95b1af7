"""`qvit-deploy bench-sites`: a latency table, which says what every site of a bundle takes at every width."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.table import Table

from qvit_deploy.artifacts.latency_table import LatencyTable
from qvit_deploy.bench.measure import TABLE_PROCESSES
from qvit_deploy.bench.sites.models import DEFAULT_BITS, SITE_TARGETS, SiteModelRequest
from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, print_json, stderr, stdout
from qvit_deploy.commands.bench_sites import emit_site_models, time_sites

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045

DEFAULT_WIDTHS = ",".join(map(str, DEFAULT_BITS))


def command(
    path: Annotated[Path, typer.Argument(help="a bundle")],
    target: Annotated[str, typer.Option(help=f"what runs the sites: {', '.join(SITE_TARGETS)}")] = SITE_TARGETS[0],
    plugin: Annotated[
        Optional[list[Path]], typer.Option(help="plugin library (.so), repeatable: times the sites in plugins")
    ] = None,
    bits: Annotated[
        Optional[str], typer.Option(help=f"widths to time; default: the folder's, or {DEFAULT_WIDTHS}")
    ] = None,
    batch: Annotated[Optional[int], typer.Option(help="images per run; default: the folder's, or 1")] = None,
    threads: Annotated[int, typer.Option(help="of the runtime on the CPU")] = 1,
    processes: Annotated[
        Optional[int], typer.Option(help=f"fresh processes, one after the other; default: {TABLE_PROCESSES}")
    ] = None,
    iterations: Annotated[
        Optional[int], typer.Option(help="timed runs in each process; default: about a second of them")
    ] = None,
    pin: Annotated[bool, typer.Option("--pin/--no-pin", help="keep the process on as many CPUs as threads")] = True,
    site_models: Annotated[
        Optional[Path], typer.Option(help="folder of the sites' models: made here, or brought from where torch is")
    ] = None,
    emit_only: Annotated[
        bool, typer.Option("--emit-only", help="write --site-models for another machine, time nothing")
    ] = False,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="JSON file; default: measurements/ of the bundle")
    ] = None,
    json: options.Json = False,
) -> None:
    """Time every site of a bundle at every width on a target: a table for compile --latency-table."""
    widths = None if bits is None else options.whole_numbers("--bits", bits)
    request = SiteModelRequest(target, widths, batch, tuple(plugin or ()))
    if emit_only:
        index = emit_site_models(path, request, site_models)
        if json:
            print_json(index.model_dump(mode="json", by_alias=True))
        message = f"{len(index.files)} models of the {index.file_for} file written to {site_models}"
    else:
        with Bars() as bars:
            table, place = time_sites(
                path,
                request,
                threads=threads,
                processes=processes,
                iterations=iterations,
                pin=pin,
                site_models=site_models,
                out=out,
                progress=bars,
            )
        if json:
            print_json(table.model_dump(mode="json", by_alias=True))
        else:
            print_table(table)
        message = f"written to {place}"
    stderr.print(message, soft_wrap=True)


def print_table(table: LatencyTable) -> None:
    """Prints one row per set of times, which sites of one shape share."""
    groups: dict[tuple[tuple[str, float], ...], list[str]] = {}
    for name, times in table.sites.items():
        groups.setdefault(tuple(times.items()), []).append(name)
    shown = Table(box=None, pad_edge=False)
    shown.add_column("sites")
    for width, _ in next(iter(groups)):
        shown.add_column(f"{width}, ms", justify="right")
    for group, names in groups.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        shown.add_row(names[0] + more, *(f"{milliseconds:.4f}" for _, milliseconds in group))
    stdout.print(shown)
    stdout.print(f"batch {table.batch_size}; {table.fingerprint}", soft_wrap=True)
