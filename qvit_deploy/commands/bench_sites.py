"""One run of `qvit-deploy bench-sites`: the models of a bundle's sites, or a latency table of them."""

from __future__ import annotations

from pathlib import Path

from qvit_deploy.artifacts.bundle import MEASUREMENTS
from qvit_deploy.artifacts.latency_table import LatencyTable
from qvit_deploy.bench.measure import TABLE_PROCESSES, MeasureOptions
from qvit_deploy.bench.sites.models import Index, SiteModelRequest
from qvit_deploy.bench.sites.times import site_table
from qvit_deploy.bench.sites.write import write_site_models
from qvit_deploy.commands.bench import require_writable, stamp, write_record
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress


def time_sites(
    path: Path,
    request: SiteModelRequest,
    *,
    threads: int = 1,
    processes: int | None = None,
    iterations: int | None = None,
    pin: bool = True,
    site_models: Path | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> tuple[LatencyTable, Path]:
    """Times every site of the bundle at `path`, and writes the table to `out` or else into the bundle.

    Args:
        processes: None for `TABLE_PROCESSES`.
        site_models: the folder with the models, or the one to write them to; None for a temporary one.

    The others are those of `MeasureOptions`.

    Returns:
        The table, and the path it was written to.

    Raises:
        InputError: the request cannot be timed here, or the table cannot be written.
        BundleError: the bundle is damaged.
    """
    if out is not None:
        require_writable(out)
    several = TABLE_PROCESSES if processes is None else processes
    options = MeasureOptions(threads=threads, processes=several, runs=iterations, pin=pin, plugins=request.plugins)
    table = site_table(path, options, request, site_models, progress)
    place = out or path / MEASUREMENTS / f"sites.{request.target}.batch{table.batch_size}.{stamp()}.json"
    return table, write_record(place, table)


def emit_site_models(path: Path, request: SiteModelRequest, site_models: Path | None) -> Index:
    """Writes the models of the bundle's sites into `site_models` for another machine to time, and returns their index.

    Raises:
        InputError: no folder is named, it holds models already, or it cannot be written.
        BundleError: the bundle is damaged.
    """
    if site_models is None:
        raise InputError("--emit-only goes with --site-models FOLDER, which says where the models go")
    return write_site_models(path, site_models, request)
