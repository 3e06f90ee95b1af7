"""One process of a measurement. `python -m qvit_deploy.bench.worker` reads a job on standard input, answers on standard
output: one JSON object a line, `{"advance": n}` while it works and `{"result": ...}` or `{"error": ...}` at the end."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvit_deploy.artifacts.measurement import Profile

BLOCK_SECONDS = 0.05
WARMUP_SECONDS = (0.2, 2.0)
"""Shortest and longest warm-up of each file."""
WINDOW = 5
STEADY_WINDOWS = 3
STEADY = 0.05
"""The warm-up is over when the medians of this many windows of runs lie this close together, relative."""


@dataclass(frozen=True)
class Job:
    """What one process does: load the files, warm each up, then time blocks of runs of each in turn.

    Attributes:
        files: one, or several to compare.
        threads: of the runtime.
        cpus: to be pinned to, or None.
        blocks: per file.
        runs: timed runs per file; None for as many as fill blocks of `BLOCK_SECONDS`.
        first: index of the file that starts; it changes from block to block.
        warm_up: False to skip it, where times do not matter.
        yardstick: the last file is the yardstick, whose batch is its own.
        plugins: libraries that engines call.
        parts: the files are parts of a model, whose first dimensions need not be a batch.
    """

    files: tuple[str, ...]
    batch: int | None
    threads: int
    cpus: tuple[int, ...] | None
    blocks: int
    runs: int | None
    first: int = 0
    warm_up: bool = True
    yardstick: bool = False
    plugins: tuple[str, ...] = ()
    parts: bool = False


def measure(job: Job, advance: Callable[[int], None]) -> dict[str, Any]:
    """Per file: load_ms, stable, blocks_ms, the sketch of all runs and joules; and the peak memory of the process.

    Raises:
        InputError: a file cannot be loaded or run.
    """
    # ONNX Runtime is imported here, after pinning: the threads that it starts inherit the CPUs.
    from qvit_deploy.bench.compare.sketch import Sketch
    from qvit_deploy.bench.device.energy import open_meter
    from qvit_deploy.errors import InputError
    from qvit_deploy.targets.process_memory import peak_memory
    from qvit_deploy.targets.registry import runtime_of
    from qvit_deploy.targets.runtime import RunSettings

    loaded = []
    facts: dict[int, dict[str, Any]] = {}
    plugins = tuple(Path(p) for p in job.plugins)
    for i in _in_turn(len(job.files), job.first):
        batch = None if job.yardstick and i == len(job.files) - 1 else job.batch
        path = Path(job.files[i])
        load = runtime_of(path).opener(path, RunSettings(batch, job.threads, plugins))
        start = time.perf_counter_ns()
        loaded.append((i, load()))
        facts[i] = {"load_ms": (time.perf_counter_ns() - start) / 1e6}
    runners = dict(loaded)
    batches = [runners[i].batch for i in range(len(job.files) - job.yardstick)]
    if len(set(batches)) > 1 and not job.parts:
        sides = ", ".join(f"{name} {count}" for name, count in zip(job.files, batches, strict=False))
        raise InputError(f"the files take different batches ({sides}); give both the same with --batch")
    typical = {}
    for i, runner in runners.items():
        typical[i], facts[i]["stable"] = _warm_up(runner.run_ns) if job.warm_up else (runner.run_ns(), False)
        facts[i] |= {"batch": runner.batch, "blocks_ms": [], "joules": 0.0, "seconds": 0.0}
        facts[i]["device_memory_bytes"] = runner.device_memory_bytes
    # As many runs of the yardstick as take the file's time count as one: other load interrupts long runs more often
    # than short ones, which moves their medians apart.
    last = len(job.files) - 1
    together = {i: max(1, round(typical[0] / typical[i])) if job.yardstick and i == last else 1 for i in runners}
    lengths = {}
    for i in runners:
        wanted = BLOCK_SECONDS * 1e9 / (typical[i] * together[i]) if job.runs is None else job.runs / job.blocks
        lengths[i] = max(1, round(wanted))
    meter = open_meter()
    whole = {i: Sketch() for i in runners}
    block = Sketch()
    for number in range(job.blocks):
        for i in _in_turn(len(runners), job.first + number):
            block.clear()
            if meter is not None:
                meter.joules()
            begin = time.perf_counter()
            run_ns = runners[i].run_ns
            for _ in range(lengths[i]):
                block.add(sum(run_ns() for _ in range(together[i])))
            facts[i]["seconds"] += time.perf_counter() - begin
            facts[i]["joules"] += 0.0 if meter is None else meter.joules()
            facts[i]["blocks_ms"].append(block.quantile(0.5) / 1e6 / together[i])
            whole[i].merge(block)
            advance(1)
    for i, sketch in whole.items():
        facts[i]["sketch"] = sketch.as_dict()
    for runner in reversed(runners.values()):  # contexts on a GPU are a stack
        runner.close()
    return {
        "files": [facts[i] for i in range(len(job.files))],
        "meter": None if meter is None else meter.name,
        "peak_memory_bytes": peak_memory(),
    }


def _in_turn(count: int, first: int) -> list[int]:
    return [(first + i) % count for i in range(count)]


def _warm_up(run_ns: Callable[[], int]) -> tuple[float, bool]:
    """Runs until times have settled. Returns (median nanoseconds of the last window, whether they had)."""
    shortest, longest = WARMUP_SECONDS
    medians: list[float] = []
    start = time.perf_counter()
    while True:
        medians.append(statistics.median(run_ns() for _ in range(WINDOW)))
        taken, last = time.perf_counter() - start, medians[-STEADY_WINDOWS:]
        steady = len(last) == STEADY_WINDOWS and max(last) - min(last) <= STEADY * min(last)
        if taken >= shortest and (steady or taken >= longest):
            return medians[-1], steady


def _profile(job: Job, request: Mapping[str, Any]) -> Profile:
    from qvit_deploy.targets.registry import runtime_of
    from qvit_deploy.targets.runtime import RunSettings, SiteNames

    path, plugins = Path(job.files[0]), tuple(Path(p) for p in job.plugins)
    names = SiteNames(request["attention"], request["sites"])
    return runtime_of(path).profile(path, RunSettings(job.batch, job.threads, plugins), names)


def main() -> None:
    # Nothing that a runtime prints may end up between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    request = json.load(sys.stdin)
    job = Job(**request["job"])
    if job.cpus is not None:
        os.sched_setaffinity(0, job.cpus)
    from qvit_deploy.errors import QvitError

    try:
        if request["task"] == "profile":
            result = _profile(job, request).model_dump()
        else:
            result = measure(job, lambda n: answer({"advance": n}))
    except QvitError as error:
        answer({"error": str(error)})
    else:
        answer({"result": result})


if __name__ == "__main__":
    main()
