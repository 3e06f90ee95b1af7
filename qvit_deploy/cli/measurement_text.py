"""Prints a measurement: a column for each side, then sentences, then the time by site and operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.table import Table

from qvit_deploy.artifacts.measurement import QUANTILES, Measurement, Profile, Subject
from qvit_deploy.cli.console import mega, print_json, stderr, stdout
from qvit_deploy.targets.registry import TARGETS

SHOWN = 8
"""Number of rows of the profile that are printed; --json has all."""


def report(measurement: Measurement, place: Path | None, json: bool) -> None:
    """Prints a measurement on standard output, as text or as JSON, and on standard error the file it was written to."""
    if json:
        print_json(measurement.tree())
    else:
        print_measurement(measurement)
    if place is not None:
        stderr.print(f"written to {place}", soft_wrap=True)


def print_measurement(measurement: Measurement) -> None:
    """Prints a measurement on standard output."""
    sides: list[Subject] = [measurement] if measurement.against is None else [measurement, measurement.against]
    stdout.print(_side_by_side(sides))
    for line in [*_ratio_lines(measurement), *(line for side in sides for line in _side_lines(side))]:
        stdout.print(line, soft_wrap=True)
    if measurement.profile is not None:
        _print_profile(measurement.profile)
    stdout.print(_conditions(measurement), soft_wrap=True)


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


def _side_by_side(sides: Sequence[Subject]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for side in sides:
        table.add_column(side.file.name, justify="right", overflow="fold")
    for title, cell in _ROWS:
        cells = [cell(side) for side in sides]
        if any(cells):
            table.add_row(title, *cells)
    return table


def _ratio_lines(measurement: Measurement) -> list[str]:
    ratio, other = measurement.ratio, measurement.against
    if ratio is None or other is None:
        return []
    low, high = ratio.interval95
    return [
        f"{measurement.file.name} takes {ratio.p50:.3f} of the time of {other.file.name} "
        f"(95 % interval {low:.3f} to {high:.3f}): {1 / ratio.p50:.2f}x"
    ]


def _side_lines(side: Subject) -> list[str]:
    """Returns lines about accuracy, energy, and processes whose times did not settle."""
    lines = []
    if side.quality is not None:
        shares = [("top-1", side.quality.top1), ("agreement with float", side.quality.agreement)]
        listed = ", ".join(f"{name} {share:.1%}" for name, share in shares if share is not None)
        lines.append(f"{side.file.name}: {listed} (n={side.quality.n})")
    if side.energy is not None:
        energy = side.energy
        lines.append(f"{1e3 * energy.joules_per_run:.2f} mJ a run, {energy.watts:.1f} W ({energy.meter})")
    unsettled = sum(p.stable is False for p in side.processes)
    if unsettled:
        lines.append(f"{side.file.name}: not settled after the warm-up in {unsettled} processes")
    return lines


def _conditions(measurement: Measurement) -> str:
    """Returns a line with the settings and the device."""
    settings, machine = measurement.settings, measurement.environment
    pinned = "" if settings.cpus is None else f", CPU {','.join(map(str, settings.cpus))}"
    threads = f", threads {settings.threads}{pinned}" if settings.threads else ""
    version = machine.versions.get(settings.runtime, "")
    on_gpu = settings.runtime in TARGETS and TARGETS[settings.runtime].on_gpu
    device = (machine.gpu if on_gpu else None) or machine.board or machine.cpu
    load = "" if machine.load_average is None else f", load average {machine.load_average:.1f}"
    return f"batch {settings.batch}{threads}; {settings.runtime} {version}; {device}{load}"


def _print_profile(profile: Profile) -> None:
    products, quantize = (sum(getattr(s, n) for s in profile.sites) for n in ("product_ms", "quantize_ms"))
    rows = [("products of the sites", products), ("quantizing their inputs", quantize), *profile.outside_ms.items()]
    rows.sort(key=lambda row: -row[1])
    rest = sum(milliseconds for _, milliseconds in rows[SHOWN:])
    table = Table(box=None, pad_edge=False, title="profiled", title_justify="left")
    table.add_column("part")
    for title in ("ms", "share"):
        table.add_column(title, justify="right")
    for name, milliseconds in [*rows[:SHOWN], *([("the rest", rest)] if rest else [])]:
        table.add_row(name, f"{milliseconds:.3f}", f"{milliseconds / profile.total_ms:.0%}")
    stdout.print(table)
    slowest = sorted(profile.sites, key=lambda s: -s.product_ms - s.quantize_ms)[:3]
    if slowest:
        listed = ", ".join(f"{s.name} {s.product_ms + s.quantize_ms:.3f} ms" for s in slowest)
        stdout.print(f"slowest sites: {listed}", soft_wrap=True)
