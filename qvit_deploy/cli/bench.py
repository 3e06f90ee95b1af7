"""`qvit-deploy bench`: latency, memory and where the time goes, of a bundle, an ONNX file or an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from qvit_deploy.bench.measure import PROCESSES, MeasureOptions
from qvit_deploy.cli import bench_sites, import_trtexec, options
from qvit_deploy.cli.console import Bars
from qvit_deploy.cli.measurement_text import report
from qvit_deploy.commands.bench import DEFAULT_TARGET, benchmark, require_writable, save
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045


def command(
    path: Annotated[Path, typer.Argument(help="a bundle, an .onnx file or an engine")],
    target: Annotated[
        str, typer.Option(help="which of the bundle's models; tensorrt, tensorrt-rtx: the engine built from it")
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
    plugin: Annotated[Optional[list[Path]], typer.Option(help="plugin library of an engine (.so), repeatable")] = None,
    profile: Annotated[bool, typer.Option("--profile/--no-profile", help="also time every site")] = True,
    data: Annotated[
        Optional[str],
        typer.Option(help="images, best with labels: adds top-1 and agreement; the first of them are run"),
    ] = None,
    preprocess: options.PreprocessFile = None,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="JSON file; default: measurements/ of a bundle")
    ] = None,
    json: options.Json = False,
    # Older spellings of bench-sites and import-trtexec.
    sites: Annotated[bool, typer.Option("--sites", hidden=True)] = False,
    bits: Annotated[Optional[str], typer.Option(hidden=True)] = None,
    site_models: Annotated[Optional[Path], typer.Option(hidden=True)] = None,
    emit_only: Annotated[bool, typer.Option("--emit-only", hidden=True)] = False,
    trtexec_times: Annotated[Optional[Path], typer.Option(hidden=True)] = None,
    trtexec_profile: Annotated[Optional[Path], typer.Option(hidden=True)] = None,
    trtexec_layers: Annotated[Optional[Path], typer.Option(hidden=True)] = None,
    trtexec_log: Annotated[Optional[Path], typer.Option(hidden=True)] = None,
) -> None:
    """Measure latency; fresh processes, settled warm-up, 95 % intervals."""
    if emit_only and (not sites or site_models is None):
        raise InputError("--emit-only goes with --sites and --site-models FOLDER: it says what to write, and where")
    if trtexec_times is None and (trtexec_profile or trtexec_layers or trtexec_log) and not sites:
        raise InputError("--trtexec-profile, --trtexec-layers and --trtexec-log go with --trtexec-times")
    if sites:
        bench_sites.command(
            path, target, plugin, bits, batch, threads, processes, iterations, pin, site_models, emit_only, out, json
        )
        return
    several = PROCESSES if processes is None else processes
    measure_options = MeasureOptions(
        batch=batch, threads=threads, processes=several, runs=iterations, pin=pin, plugins=tuple(plugin or ())
    )
    if trtexec_times is not None:
        import_trtexec.command(path, trtexec_times, trtexec_profile, trtexec_layers, trtexec_log, batch, out, json)
        return
    if out is not None:
        require_writable(out)
    with Bars() as bars:
        measurement = benchmark(
            path,
            measure_options,
            target=target,
            against=against,
            data=data,
            preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
            profiled=profile,
            progress=bars,
        )
    place = save(measurement, path, out)
    report(measurement, place, json)
