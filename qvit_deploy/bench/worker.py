"""One process of a measurement, `python -m qvit_deploy.bench.worker`.

It reads a job from standard input and writes one JSON object per line to standard output: `{"advance": n}` while it
works, and `{"result": ...}` or `{"error": ...}` at the end.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvit_deploy.artifacts.measurement import Profile
    from qvit_deploy.bench.compare.sketch import Sketch
    from qvit_deploy.bench.device.energy import Rapl
    from qvit_deploy.progress import Advance
    from qvit_deploy.targets.runtime import Runner, RunSettings

BLOCK_SECONDS = 0.05
WARMUP_SECONDS = (0.2, 2.0)
"""Shortest and longest warm-up of each file."""
WINDOW = 5
STEADY_WINDOWS = 3
STEADY = 0.05
"""The warm-up is over when the medians of this many windows of runs lie this close together, relative."""


@dataclass(frozen=True)
class MeasureJob:
    """The work of one process: it loads the files, warms each up, then times blocks of runs, the files alternating.

    Attributes:
        files: one, or several to compare.
        batch: images per run; None for each file's own, or 1 where it takes any number.
        threads: of the runtime.
        cpus: CPUs to pin the process to, or None.
        blocks: number of blocks per file.
        runs: timed runs per file; None for as many as fill blocks of `BLOCK_SECONDS`.
        first: index of the file that starts the first block; the next block starts with the next file.
        warm_up: False to skip it, where times do not matter.
        reference: whether the last file is the reference workload, which has a batch of its own.
        plugins: plugin libraries that engines call.
        values: for each file, one of `targets.run_values` with the values of its inputs; () for made-up ones.
        parts: whether the files are parts of a model, whose first dimensions need not be a batch.
    """

    files: tuple[str, ...]
    batch: int | None
    threads: int
    cpus: tuple[int, ...] | None
    blocks: int
    runs: int | None
    first: int = 0
    warm_up: bool = True
    reference: bool = False
    plugins: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    parts: bool = False

    def settings(self, index: int) -> RunSettings:
        """Returns what the file at `index` is run with."""
        from qvit_deploy.targets.runtime import RunSettings

        batch = None if self.reference and index == len(self.files) - 1 else self.batch
        values = Path(self.values[index]) if index < len(self.values) else None
        return RunSettings(batch, self.threads, tuple(Path(p) for p in self.plugins), values)


@dataclass
class Side:
    """One file and its times while it is measured.

    Attributes:
        typical_ns: nanoseconds of one run, from the warm-up.
        stable: whether times settled in the warm-up.
        runs_per_sample: runs that are timed as one sample.
        samples_per_block: samples of a block.
        joules, seconds: of all blocks.
        sketch: of the nanoseconds of all samples.
    """

    runner: Runner
    load_ms: float
    sketch: Sketch
    typical_ns: float = 0.0
    stable: bool = False
    runs_per_sample: int = 1
    samples_per_block: int = 1
    blocks_ms: list[float] = field(default_factory=list)
    joules: float = 0.0
    seconds: float = 0.0

    def time_block(self, block: Sketch, meter: Rapl | None) -> None:
        """Times one block; `block` is a sketch to reuse."""
        block.clear()
        if meter is not None:
            meter.joules()
        begin = time.perf_counter()
        run_ns, runs = self.runner.run_ns, self.runs_per_sample
        for _ in range(self.samples_per_block):
            block.add(sum(run_ns() for _ in range(runs)))
        self.seconds += time.perf_counter() - begin
        self.joules += 0.0 if meter is None else meter.joules()
        self.blocks_ms.append(block.quantile(0.5) / 1e6 / runs)
        self.sketch.merge(block)

    def as_dict(self) -> dict[str, Any]:
        """Returns the times as JSON values."""
        return {
            "load_ms": self.load_ms,
            "stable": self.stable,
            "batch": self.runner.batch,
            "blocks_ms": self.blocks_ms,
            "joules": self.joules,
            "seconds": self.seconds,
            "device_memory_bytes": self.runner.device_memory_bytes,
            "sketch": self.sketch.as_dict(),
        }


def measure(job: MeasureJob, advance: Advance) -> dict[str, Any]:
    """Runs a job and returns `Side.as_dict` of every file, the energy meter and the peak memory of the process, bytes.

    Raises:
        InputError: a file cannot be loaded or run.
    """
    # ONNX Runtime is imported after pinning, since the threads that it starts inherit the CPUs.
    from qvit_deploy.bench.compare.sketch import Sketch
    from qvit_deploy.bench.device.energy import open_meter
    from qvit_deploy.targets.process_memory import peak_memory

    sides = {i: _load(job, i) for i in _in_turn(len(job.files), job.first)}
    _require_one_batch(job, sides)
    for side in sides.values():
        run_ns = side.runner.run_ns
        side.typical_ns, side.stable = _warm_up(run_ns) if job.warm_up else (run_ns(), False)
    _set_block_sizes(job, sides)
    meter, block = open_meter(), Sketch()
    for number in range(job.blocks):
        for i in _in_turn(len(sides), job.first + number):
            sides[i].time_block(block, meter)
            advance(1)
    for side in reversed(sides.values()):  # CUDA contexts form a stack
        side.runner.close()
    return {
        "files": [sides[i].as_dict() for i in range(len(job.files))],
        "meter": None if meter is None else meter.name,
        "peak_memory_bytes": peak_memory(),
    }


def _load(job: MeasureJob, index: int) -> Side:
    from qvit_deploy.bench.compare.sketch import Sketch
    from qvit_deploy.targets.registry import runtime_of

    path = Path(job.files[index])
    load = runtime_of(path).opener(path, job.settings(index))
    start = time.perf_counter_ns()
    runner = load()
    return Side(runner, (time.perf_counter_ns() - start) / 1e6, Sketch())


def _require_one_batch(job: MeasureJob, sides: Mapping[int, Side]) -> None:
    from qvit_deploy.errors import InputError

    batches = [sides[i].runner.batch for i in range(len(job.files) - job.reference)]
    if len(set(batches)) > 1 and not job.parts:
        listed = ", ".join(f"{name} {count}" for name, count in zip(job.files, batches, strict=False))
        raise InputError(f"the files take different batches ({listed}); give both the same with --batch")


def _set_block_sizes(job: MeasureJob, sides: Mapping[int, Side]) -> None:
    """Sets how many runs a sample, and how many samples a block of each file has.

    A sample of the reference workload has as many runs as take the time of one run of the file: other load interrupts
    long samples more often than short ones, so that medians of unequal ones would drift apart.
    """
    if job.reference:
        reference = sides[len(job.files) - 1]
        reference.runs_per_sample = max(1, round(sides[0].typical_ns / reference.typical_ns))
    for side in sides.values():
        samples = BLOCK_SECONDS * 1e9 / (side.typical_ns * side.runs_per_sample)
        side.samples_per_block = max(1, round(samples if job.runs is None else job.runs / job.blocks))


def _in_turn(count: int, first: int) -> list[int]:
    """Returns the indices of `count` files in the order of a block that starts with file `first`."""
    return [(first + i) % count for i in range(count)]


def _warm_up(run_ns: Callable[[], int]) -> tuple[float, bool]:
    """Runs until times settle, or at most `WARMUP_SECONDS`.

    Returns (median nanoseconds of the last window, whether times settled).
    """
    shortest, longest = WARMUP_SECONDS
    medians: list[float] = []
    start = time.perf_counter()
    while True:
        medians.append(statistics.median(run_ns() for _ in range(WINDOW)))
        elapsed, last = time.perf_counter() - start, medians[-STEADY_WINDOWS:]
        steady = len(last) == STEADY_WINDOWS and max(last) - min(last) <= STEADY * min(last)
        if elapsed >= shortest and (steady or elapsed >= longest):
            return medians[-1], steady


def _profile(job: MeasureJob, request: Mapping[str, Any]) -> Profile:
    from qvit_deploy.targets.registry import runtime_of
    from qvit_deploy.targets.runtime import SiteNames

    path, names = Path(job.files[0]), SiteNames(request["attention"], request["sites"])
    return runtime_of(path).profile(path, job.settings(0), names)


def main() -> None:
    """Reads a request, works on it, and writes the answer."""
    # Nothing that a runtime prints may end up between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    request = json.load(sys.stdin)
    job = MeasureJob(**request["job"])
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
