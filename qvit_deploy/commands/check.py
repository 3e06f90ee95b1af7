"""One run of `qvit-deploy check`: compares the files of measurements, and writes the report for a CI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvit_deploy.artifacts.atomic import append, write_file
from qvit_deploy.artifacts.json_text import json_file
from qvit_deploy.artifacts.measurement import read_measurement
from qvit_deploy.bench.compare.outputs import benchmark_action, junit, markdown
from qvit_deploy.bench.compare.regression import Named, Report, Thresholds, check


@dataclass(frozen=True)
class Outputs:
    """Files to write a report to.

    Attributes:
        junit: XML.
        markdown: a job summary, which is appended to.
        benchmark_action: JSON for github-action-benchmark.
    """

    junit: Path | None = None
    markdown: Path | None = None
    benchmark_action: Path | None = None


def check_files(
    baseline: str, candidate: str | None, thresholds: Thresholds, outputs: Outputs, any_environment: bool = False
) -> Report:
    """Compares measurements and writes what `outputs` names.

    Args:
        baseline, candidate: paths of measurements, several separated by commas; a baseline alone must have been
            measured with `--against`.
        any_environment: whether to compare measurements of different machines, settings and versions too.

    Raises:
        InputError: a file is no measurement, they cannot be compared, or an output cannot be written.
    """
    first = _read(baseline)
    baselines, candidates = ([], first) if candidate is None else (first, _read(candidate))
    report = check(baselines, candidates, thresholds, any_environment)
    if outputs.junit is not None:
        write_file(outputs.junit, junit(report))
    if outputs.markdown is not None:
        append(outputs.markdown, markdown(report).encode())
    if outputs.benchmark_action is not None:
        write_file(outputs.benchmark_action, json_file(benchmark_action(report.candidate)))
    return report


def _read(paths: str) -> list[Named]:
    # A name may hold a comma itself.
    names = [paths] if Path(paths).exists() else paths.split(",")
    return [(Path(name), read_measurement(Path(name))) for name in names]
