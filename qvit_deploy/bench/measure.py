"""Measuring files: several fresh processes, each of which warms up and times blocks of runs; of two files in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.artifacts.measurement import (
    QUANTILES,
    Energy,
    Latency,
    Measurement,
    ModelFile,
    Process,
    Profile,
    RatioRecord,
    Settings,
    Subject,
)
from qvit_deploy.bench.compare.sketch import Sketch
from qvit_deploy.bench.compare.stats import paired_ratio, summary
from qvit_deploy.bench.device.environment import environment, fastest_cpus
from qvit_deploy.bench.reference_workload import yardstick
from qvit_deploy.bench.worker import Job
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.targets.registry import facts_of

PROCESSES, BLOCKS = 20, 12
"""Defaults; docs/bench.md has the error rates of `check` with them (tools/measure/check.py). Half the processes with
almost twice the blocks miss four times as many slowdowns on a loaded machine when the sides are measured apart."""

TABLE_PROCESSES, TABLE_BLOCKS = 5, 8
"""Defaults for many small models in turn."""

MEMORY_RUNS = 3
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        batch: images per run, None for the file's own (1 when any will do).
        threads: of the runtime.
        processes: fresh ones, one after the other.
        runs: timed runs of each file in each process; None for as many as fill `BLOCKS` blocks of 50 ms.
        pin: to CPUs, where the system allows it.
        plugins: libraries that engines call.
    """

    batch: int | None = None
    threads: int = 1
    processes: int = PROCESSES
    runs: int | None = None
    pin: bool = True
    plugins: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "processes", "runs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{'iterations' if name == 'runs' else name} must be at least 1, got {value}")
        if self.runs is not None and self.processes * self.runs < 2:
            raise InputError("one run says nothing about the next; ask for two or more (--iterations, --processes)")


@dataclass(frozen=True)
class File:
    """A file to measure. For the profile: `attention`, the attention products of an .onnx file (output tensor -> site),
    and `sites`, names that the layers of an engine are given back to."""

    path: Path
    attention: Mapping[str, str] = field(default_factory=dict)
    sites: tuple[str, ...] = ()


def measure(
    file: File, against: File | None, plan: Plan, profiled: bool = True, progress: Progress | None = None
) -> Measurement:
    """Measures `file` in turn, block by block, with `against`, or with the yardstick when there is none.

    An engine has no yardstick: the fixed model runs on the CPU, which knows nothing of the GPU's clock.

    Raises:
        InputError: a file cannot be loaded or run here.
    """
    watch = Stopwatch(progress)
    files = [file] if against is None else [file, against]
    runtimes = [facts_of(f.path, plan.batch) for f in files]
    engines = [r.on_gpu for r in runtimes]
    yardsticked = against is None and not engines[0]
    with tempfile.TemporaryDirectory() as folder:
        fixed = Path(folder) / "yardstick.onnx"
        fixed.write_bytes(yardstick())
        paths = [f.path for f in files] + [fixed] * yardsticked
        job = replace(_job(paths, plan, BLOCKS), yardstick=yardsticked)
        answers = _answers(job, plan, watch)
    once = replace(job, runs=MEMORY_RUNS, blocks=1, warm_up=False, yardstick=False)
    alone = [replace(once, files=(name,)) for name in job.files[: len(files)]]
    with watch.stage("memory", len(alone)) as advance:
        # With two files in a process nobody can tell whose memory it is.
        memory = [_run({"task": "measure", "job": asdict(a)}, advance) for a in alone]
    profiles: list[Profile | None] = [None] * len(files)
    if profiled:
        with watch.stage("profile", len(files)) as advance:
            for i, (each, lone) in enumerate(zip(files, alone, strict=True)):
                names = {"attention": dict(each.attention), "sites": each.sites}
                task = {"task": "profile", "job": asdict(lone), **names}
                profiles[i] = Profile.model_validate(_run(task, lambda _: None))
                advance(1)
    if yardsticked:
        for answer in answers:
            answer["files"][0]["yardstick_ms"] = answer["files"].pop()["blocks_ms"]
    subjects = [
        _subject(f.path, [a["files"][i] for a in answers], answers[0]["meter"], memory[i], profiles[i])
        for i, f in enumerate(files)
    ]
    ratio = None
    if len(subjects) == 2:
        # The baseline is the other file: a ratio above 1 says that this one is slower.
        found = paired_ratio(
            [([p.blocks_ms for p in subjects[1].processes], [p.blocks_ms for p in subjects[0].processes])]
        )
        ratio = RatioRecord(p50=found.value, interval95=found.interval)
        if runtimes[1].name != runtimes[0].name:
            subjects[1] = subjects[1].model_copy(update={"runtime": runtimes[1].name})
    around = environment()
    # A library runs engines of its own version only, so the engine knows it.
    built = {r.name: r.version for r in runtimes if r.version is not None}
    return Measurement(
        **dict(subjects[0]),
        schema="qvit-deploy/measurement/1",
        source="qvit-deploy",
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings=Settings(
            runtime=runtimes[0].name,
            batch=answers[0]["files"][0]["batch"],
            threads=None if all(engines) else plan.threads,
            cpus=job.cpus,
            flags=dict(runtimes[0].flags),
        ),
        environment=around.model_copy(update={"versions": {**around.versions, **built}}),
        against=subjects[1] if len(subjects) == 2 else None,
        ratio=ratio,
    )


def medians_ms(paths: Sequence[Path], plan: Plan, progress: Progress | None = None) -> list[float]:
    """Milliseconds of each file, the median of its blocks; all in turn in the same processes.

    Args:
        paths: parts of a model, each with the sizes it has there: the windows of Swin are several to an image.

    Raises:
        InputError: one cannot be loaded or run here.
    """
    job = replace(_job(paths, plan, TABLE_BLOCKS), parts=True)
    return [statistics.median(b for p in blocks for b in p) for blocks in _blocks(job, plan, progress)]


def in_turn(
    paths: Sequence[Path], plan: Plan, blocks: int = BLOCKS, progress: Progress | None = None
) -> list[list[list[float]]]:
    """Milliseconds [files][processes][blocks]; all files in turn in the same processes.

    Raises:
        InputError: one cannot be loaded or run here.
    """
    return _blocks(_job(paths, plan, blocks), plan, progress)


def _blocks(job: Job, plan: Plan, progress: Progress | None) -> list[list[list[float]]]:
    """Milliseconds [files][processes][blocks]."""
    answers = _answers(job, plan, Stopwatch(progress))
    return [[a["files"][i]["blocks_ms"] for a in answers] for i in range(len(job.files))]


def _job(paths: Sequence[Path], plan: Plan, blocks: int) -> Job:
    return Job(
        files=tuple(str(p.absolute()) for p in paths),
        batch=plan.batch,
        threads=plan.threads,
        cpus=fastest_cpus(plan.threads) if plan.pin else None,
        blocks=blocks if plan.runs is None else min(blocks, plan.runs),
        runs=plan.runs,
        plugins=tuple(str(p.absolute()) for p in plan.plugins),
    )


def _answers(job: Job, plan: Plan, watch: Stopwatch) -> list[dict[str, Any]]:
    """One answer per process; each starts with another file."""
    with watch.stage("bench", plan.processes * job.blocks * len(job.files)) as advance:
        jobs = [replace(job, first=i % len(job.files)) for i in range(plan.processes)]
        return [_run({"task": "measure", "job": asdict(j)}, advance) for j in jobs]


def _subject(
    path: Path,
    answers: Sequence[dict[str, Any]],
    meter: str | None,
    alone: Mapping[str, Any],
    profile: Profile | None,
) -> Subject:
    sketches = [Sketch.from_dict(a["sketch"]) for a in answers]
    runs = [s.count for s in sketches]
    latency = latency_of(sketches)
    energy = None
    if meter is not None:
        joules, seconds = sum(a["joules"] for a in answers), sum(a["seconds"] for a in answers)
        energy = Energy(meter=meter, joules_per_run=joules / sum(runs), watts=joules / seconds)
    processes = [
        Process.model_validate({"runs": n, **{k: a.get(k) for k in ("blocks_ms", "load_ms", "stable", "yardstick_ms")}})
        for a, n in zip(answers, runs, strict=True)
    ]
    return Subject(
        file=ModelFile(name=path.name, **FileRecord.of(path.read_bytes()).model_dump()),
        latency_ms=latency,
        throughput=answers[0]["batch"] / latency.mean * 1e3,
        load_ms=statistics.median(a["load_ms"] for a in answers),
        peak_memory_bytes=alone["peak_memory_bytes"],
        device_memory_bytes=alone["files"][0]["device_memory_bytes"],
        processes=tuple(processes),
        profile=profile,
        energy=energy,
    )


def latency_of(sketches: Sequence[Sketch]) -> Latency:
    """Mean and quantiles of all samples together, in milliseconds."""
    values, intervals = summary(sketches, list(QUANTILES.values()))
    names = ("mean", *QUANTILES)
    said = {n: v / 1e6 for n, v in zip(names, values, strict=True)}
    ends = {n: (low / 1e6, high / 1e6) for n, (low, high) in zip(names, intervals, strict=True)}
    return Latency.model_validate({**said, "samples": sum(s.count for s in sketches), "interval95": ends})


def _run(request: dict[str, Any], advance: Any) -> Any:
    """The worker's answer to `request`. Raises InputError with its reason, or with what it died of."""
    with tempfile.TemporaryFile() as errors:
        worker = subprocess.Popen(
            [sys.executable, "-m", "qvit_deploy.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # It must find the package that is running here, installed or not.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path)},
        )
        try:
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write(json.dumps(request))
            worker.stdin.close()
            for line in worker.stdout:
                answer = json.loads(line)
                if "advance" in answer:
                    advance(answer["advance"])
                elif "error" in answer:
                    raise InputError(answer["error"])
                else:
                    return answer["result"]
            worker.wait(TIMEOUT_SECONDS)
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else f"exit code {worker.returncode}"
            raise InputError(f"{request['job']['files'][0]}: the process that ran it died: {reason}")
        finally:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
