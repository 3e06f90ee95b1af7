"""`qvit-deploy bench`: latency, memory and where the time goes, of a bundle, an ONNX file or an engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.markup import escape
from rich.table import Table

from qvit_deploy.artifacts.latency_table import LatencyTable
from qvit_deploy.artifacts.measurement import QUANTILES, Measurement, Profile, Subject
from qvit_deploy.bench.measure import PROCESSES, TABLE_PROCESSES, Plan
from qvit_deploy.bench.sites.models import DEFAULT_BITS, SITE_TARGETS, Asked
from qvit_deploy.bench.sites.times import site_table
from qvit_deploy.bench.sites.write import write_site_models
from qvit_deploy.bench.trtexec import Recording
from qvit_deploy.cli import options
from qvit_deploy.cli.console import Bars, mega, print_json, stderr, stdout, whole_numbers
from qvit_deploy.commands.bench import (
    DEFAULT_TARGET,
    benchmark,
    from_trtexec,
    require_writable,
    save,
    save_table,
)
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.tasks.classify import CLASSIFY

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045

DEFAULT_WIDTHS = ",".join(map(str, DEFAULT_BITS))

SHOWN = 8
"""Rows of the profile that are printed; --json has all."""


def command(
    path: Annotated[Path, typer.Argument(help="a bundle, an .onnx file or an engine")],
    target: Annotated[
        str,
        typer.Option(
            help=f"which of the bundle's models; {', '.join(t.name for t in TARGETS.values() if t.on_gpu)}: the engine "
            "built from it"
        ),
    ] = DEFAULT_TARGET,
    against: Annotated[
        Optional[Path], typer.Option(help="another bundle or file, measured in turn in the same processes")
    ] = None,
    batch: Annotated[Optional[int], typer.Option(help="images per run; default: the file's own, or 1")] = None,
    threads: Annotated[int, typer.Option(help="of the runtime on the CPU")] = 1,
    processes: Annotated[
        Optional[int], typer.Option(help=f"fresh processes, one after the other; default: {PROCESSES}")
    ] = None,
    iterations: Annotated[
        Optional[int], typer.Option(help="timed runs in each process; default: about a second of them")
    ] = None,
    pin: Annotated[bool, typer.Option("--pin/--no-pin", help="keep the process on as many CPUs as threads")] = True,
    plugin: Annotated[
        Optional[list[Path]],
        typer.Option(help="plugin library of an engine (.so), repeatable; with --sites, times sites in plugins"),
    ] = None,
    profile: Annotated[bool, typer.Option("--profile/--no-profile", help="also time every site")] = True,
    data: Annotated[Optional[str], typer.Option(help="labelled images: adds top-1 and agreement")] = None,
    preprocess: options.PreprocessFile = None,
    sites: Annotated[
        bool,
        typer.Option(
            "--sites",
            help=f"time every site at every width on --target ({', '.join(SITE_TARGETS)}): a table for --latency-table",
        ),
    ] = False,
    bits: Annotated[
        Optional[str], typer.Option(help=f"widths of --sites; default: the folder's, or {DEFAULT_WIDTHS}")
    ] = None,
    site_models: Annotated[
        Optional[Path], typer.Option(help="folder of --sites models: made here, or brought from where torch is")
    ] = None,
    emit_only: Annotated[
        bool, typer.Option("--emit-only", help="write the --site-models of --sites for another machine, time nothing")
    ] = False,
    trtexec_times: Annotated[
        Optional[Path], typer.Option(help="run nothing: read what trtexec --exportTimes wrote for the engine")
    ] = None,
    trtexec_profile: Annotated[Optional[Path], typer.Option(help="and --exportProfile")] = None,
    trtexec_layers: Annotated[Optional[Path], typer.Option(help="and --exportLayerInfo")] = None,
    trtexec_log: Annotated[Optional[Path], typer.Option(help="and what it printed: its version and flags")] = None,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="JSON file; default: measurements/ of a bundle")
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure latency; fresh processes, settled warm-up, 95 % intervals."""
    if out is not None:
        require_writable(out)
    plugins = tuple(plugin or ())
    if emit_only and (not sites or site_models is None):
        raise InputError("--emit-only goes with --sites and --site-models FOLDER: it says what to write, and where")
    if sites:
        widths = None if bits is None else whole_numbers("--bits", bits)
        asked = Asked(target, widths, batch, plugins)
        if emit_only and site_models is not None:
            index = write_site_models(path, site_models, asked)
            if json:
                print_json(index.model_dump(mode="json", by_alias=True))
            stderr.print(
                f"{len(index.files)} models of the {index.file_for} file written to {site_models}", markup=False,
                soft_wrap=True,
            )  # fmt: skip
            return
        several = TABLE_PROCESSES if processes is None else processes
        plan = Plan(threads=threads, processes=several, runs=iterations, pin=pin, plugins=plugins)
        with Bars() as bars:
            table = site_table(path, plan, asked, site_models, bars)
        written = save_table(table, path, target, out)
        if json:
            print_json(table.model_dump(mode="json", by_alias=True))
        else:
            _sites(table)
        stderr.print(f"written to {written}", markup=False, soft_wrap=True)
        return
    several = PROCESSES if processes is None else processes
    plan = Plan(batch=batch, threads=threads, processes=several, runs=iterations, pin=pin, plugins=plugins)
    if trtexec_times is not None:
        recording = Recording(trtexec_times, trtexec_profile, trtexec_layers, trtexec_log)
        found = from_trtexec(recording, path, plan)
    elif trtexec_profile or trtexec_layers or trtexec_log:
        raise InputError("--trtexec-profile, --trtexec-layers and --trtexec-log go with --trtexec-times")
    else:
        with Bars() as bars:
            found = benchmark(
                path,
                plan,
                target=target,
                against=against,
                data=data,
                preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
                profiled=profile,
                progress=bars,
            )
    kept = save(found, path, out)
    if json:
        print_json(found.tree())
    else:
        _report(found)
    if kept is not None:
        stderr.print(f"written to {kept}", markup=False, soft_wrap=True)


def _quantile(name: str) -> Callable[[Subject], str]:
    def cell(side: Subject) -> str:
        low, high = side.latency_ms.interval95[name]  # type: ignore[index]
        return f"{getattr(side.latency_ms, name):.3f} ms ({low:.3f} to {high:.3f})"

    return cell


_ROWS: list[tuple[str, Callable[[Subject], str]]] = [
    *((name, _quantile(name)) for name in (*QUANTILES, "mean")),
    ("throughput", lambda s: f"{s.throughput:.1f} images/s"),
    ("load", lambda s: "" if s.load_ms is None else f"{s.load_ms:.0f} ms"),
    ("peak memory", lambda s: "" if s.peak_memory_bytes is None else mega(s.peak_memory_bytes)),
    ("GPU memory", lambda s: "" if s.device_memory_bytes is None else mega(s.device_memory_bytes)),
    ("file", lambda s: mega(s.file.bytes)),
    ("runs", lambda s: f"{s.latency_ms.samples} in {len(s.processes)} processes"),
]


def _report(found: Measurement) -> None:
    sides: list[Subject] = [found] if found.against is None else [found, found.against]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for side in sides:
        table.add_column(escape(side.file.name), justify="right", overflow="fold")
    for title, cell in _ROWS:
        cells = [cell(side) for side in sides]
        if any(cells):
            table.add_row(title, *cells)
    stdout.print(table)
    if found.ratio is not None and found.against is not None:
        low, high = found.ratio.interval95
        stdout.print(
            f"{escape(found.file.name)} takes {found.ratio.p50:.3f} of the time of {escape(found.against.file.name)} "
            f"(95 % interval {low:.3f} to {high:.3f}): {1 / found.ratio.p50:.2f}x",
            soft_wrap=True,
        )
    for side in sides:
        if side.quality is not None:
            score, agreement = side.quality.top1, side.quality.agreement
            said = ", ".join([
                *([] if score is None else [f"{CLASSIFY.words.score} {CLASSIFY.score_text(score)}"]),
                *([] if agreement is None else [f"agreement with float {agreement:.1%}"]),
            ])  # fmt: skip
            stdout.print(f"{escape(side.file.name)}: {said} (n={side.quality.n})", soft_wrap=True)
        if side.energy is not None:
            stdout.print(
                f"{1e3 * side.energy.joules_per_run:.2f} mJ a run, {side.energy.watts:.1f} W ({side.energy.meter})"
            )
        restless = sum(p.stable is False for p in side.processes)
        if restless:
            stdout.print(f"{escape(side.file.name)}: not settled after the warm-up in {restless} processes")
    if found.profile is not None:
        _profile(found.profile)
    how, where = found.settings, found.environment
    pinned = "" if how.cpus is None else f", CPU {','.join(map(str, how.cpus))}"
    version = where.versions.get(how.runtime, "")
    device = (where.gpu if how.runtime in TARGETS and TARGETS[how.runtime].on_gpu else None) or where.board or where.cpu
    load = "" if where.load_average is None else f", load average {where.load_average:.1f}"
    stdout.print(
        f"batch {how.batch}" + (f", threads {how.threads}{pinned}" if how.threads else "")
        + f"; {how.runtime} {version}; {escape(device)}{load}",
        soft_wrap=True,
    )  # fmt: skip


def _sites(found: LatencyTable) -> None:
    """One row per set of times: sites of one shape share it."""
    groups: dict[tuple[tuple[str, float], ...], list[str]] = {}
    for name, times in found.sites.items():
        groups.setdefault(tuple(times.items()), []).append(name)
    table = Table(box=None, pad_edge=False)
    table.add_column("sites")
    for width, _ in next(iter(groups)):
        table.add_column(f"{width}, ms", justify="right")
    for group, names in groups.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        table.add_row(escape(names[0]) + more, *(f"{taken:.4f}" for _, taken in group))
    stdout.print(table)
    stdout.print(f"batch {found.batch_size}; {found.fingerprint}", markup=False, soft_wrap=True)


def _profile(profile: Profile) -> None:
    products, quantize = (sum(getattr(s, n) for s in profile.sites) for n in ("product_ms", "quantize_ms"))
    rows = [("products of the sites", products), ("quantizing their inputs", quantize), *profile.outside_ms.items()]
    table = Table(box=None, pad_edge=False, title="profiled", title_justify="left")
    table.add_column("part")
    for title in ("ms", "share"):
        table.add_column(title, justify="right")
    rows.sort(key=lambda row: -row[1])
    rest = sum(taken for _, taken in rows[SHOWN:])
    for name, taken in [*rows[:SHOWN], *([("the rest", rest)] if rest else [])]:
        table.add_row(name, f"{taken:.3f}", f"{taken / profile.total_ms:.0%}")
    stdout.print(table)
    slowest = sorted(profile.sites, key=lambda s: -s.product_ms - s.quantize_ms)[:3]
    if slowest:
        said = ", ".join(f"{s.name} {s.product_ms + s.quantize_ms:.3f} ms" for s in slowest)
        stdout.print(f"slowest sites: {said}", soft_wrap=True)
