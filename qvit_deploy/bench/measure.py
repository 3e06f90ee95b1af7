"""Measures files in several fresh processes, each of which warms up and times blocks of runs, of two files in turn."""

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
from qvit_deploy.bench.reference_workload import reference_workload
from qvit_deploy.bench.worker import MeasureJob
from qvit_deploy.errors import InputError
from qvit_deploy.progress import Progress, Stopwatch
from qvit_deploy.targets.registry import facts_of

PROCESSES, BLOCKS = 20, 12
"""Defaults; docs/bench.md has the error rates of `check` with them (tools/measure/check.py). Half the processes with
almost twice the blocks miss four times as many slowdowns on a loaded machine when the sides are measured apart."""

TABLE_PROCESSES, TABLE_BLOCKS = 5, 8
"""Defaults for many small models, whose blocks alternate."""

MEMORY_RUNS = 3
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True)
class MeasureOptions:
    """The options of a measurement.

    Attributes:
        batch: images per run; None for the file's own, or 1 where it takes any number.
        threads: of the runtime.
        processes: number of fresh processes, one after the other.
        runs: timed runs of each file in each process; None for as many as fill `BLOCKS` blocks of 50 ms.
        pin: whether to pin processes to CPUs, where the system allows it.
        plugins: plugin libraries that engines call.

    Raises:
        InputError: a number is not positive, or there would be only one run.
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
    """A file to measure.

    Attributes:
        attention: output tensor -> site, of the attention products of an .onnx file, for its profile.
        sites: names of the sites that the layers of an engine are attributed to, for its profile.
        values: file of `targets.run_values` with the values of its inputs; None for made-up ones.
    """

    path: Path
    attention: Mapping[str, str] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    values: Path | None = None


def measure(
    file: File, against: File | None, options: MeasureOptions, profiled: bool = True, progress: Progress | None = None
) -> Measurement:
    """Measures `file`, its blocks alternating with those of `against`, or else of the reference workload.

    An engine has no reference workload, which runs on the CPU and does not depend on the GPU's clock.

    Raises:
        InputError: a file cannot be loaded or run here.
    """
    watch = Stopwatch(progress)
    files = [file] if against is None else [file, against]
    runtimes = [facts_of(f.path, options.batch) for f in files]
    engines = [r.on_gpu for r in runtimes]
    values = tuple(str(f.values) for f in files if f.values is not None)
    job = replace(_job([f.path for f in files], options, BLOCKS), values=values)
    run_all = _with_reference if against is None and not engines[0] else _answers
    answers = run_all(job, options, watch)
    short = replace(job, runs=MEMORY_RUNS, blocks=1, warm_up=False)
    single = [replace(short, files=(name,), values=values[i : i + 1]) for i, name in enumerate(job.files)]
    memory = _memory(single, watch)
    profiles = _profiles(files, single, watch) if profiled else [None] * len(files)
    subjects = [
        _subject(f.path, [a["files"][i] for a in answers], answers[0]["meter"], memory[i], profiles[i])
        for i, f in enumerate(files)
    ]
    other = None
    if against is not None:
        differs = runtimes[1].name != runtimes[0].name
        other = subjects[1].model_copy(update={"runtime": runtimes[1].name}) if differs else subjects[1]
    machine = environment()
    # A library runs only engines of its own version, so their records tell it.
    engine_versions = {r.name: r.version for r in runtimes if r.version is not None}
    return Measurement(
        **dict(subjects[0]),
        schema="qvit-deploy/measurement/1",
        source="qvit-deploy",
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        settings=Settings(
            runtime=runtimes[0].name,
            batch=answers[0]["files"][0]["batch"],
            threads=None if all(engines) else options.threads,
            cpus=job.cpus,
            flags=dict(runtimes[0].flags),
        ),
        environment=machine.model_copy(update={"versions": {**machine.versions, **engine_versions}}),
        against=other,
        ratio=None if other is None else _ratio(subjects[0], other),
    )


def _with_reference(job: MeasureJob, options: MeasureOptions, watch: Stopwatch) -> list[dict[str, Any]]:
    """Runs a job of one file together with the reference workload, whose times are added to the file's answers."""
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.onnx"
        reference.write_bytes(reference_workload())
        answers = _answers(replace(job, files=(*job.files, str(reference)), reference=True), options, watch)
    for answer in answers:
        answer["files"][0]["yardstick_ms"] = answer["files"].pop()["blocks_ms"]
    return answers


def _memory(single: Sequence[MeasureJob], watch: Stopwatch) -> list[dict[str, Any]]:
    """Runs each job of a single file, since the memory of a process with two cannot be attributed to one of them."""
    with watch.stage("memory", len(single)) as advance:
        return [_run({"task": "measure", "job": asdict(job)}, advance) for job in single]


def _profiles(files: Sequence[File], single: Sequence[MeasureJob], watch: Stopwatch) -> list[Profile | None]:
    """Profiles each file in a process of its own."""
    profiles: list[Profile | None] = []
    with watch.stage("profile", len(files)) as advance:
        for file, job in zip(files, single, strict=True):
            names = {"attention": dict(file.attention), "sites": file.sites}
            answer = _run({"task": "profile", "job": asdict(job), **names}, lambda _: None)
            profiles.append(Profile.model_validate(answer))
            advance(1)
    return profiles


def _ratio(file: Subject, baseline: Subject) -> RatioRecord:
    """Returns the ratio of latencies, above 1 if the file is slower than the baseline."""
    pairs = [p.blocks_ms for p in baseline.processes], [p.blocks_ms for p in file.processes]
    ratio = paired_ratio([pairs])
    return RatioRecord(p50=ratio.value, interval95=ratio.interval)


def medians_ms(paths: Sequence[Path], options: MeasureOptions, progress: Progress | None = None) -> list[float]:
    """Returns milliseconds of each file, the median of its blocks; blocks of all files alternate in the same processes.

    Args:
        paths: parts of a model, whose first dimensions are those they have in it: Swin has several windows per image.

    Raises:
        InputError: one cannot be loaded or run here.
    """
    job = replace(_job(paths, options, TABLE_BLOCKS), parts=True)
    return [statistics.median(b for p in blocks for b in p) for blocks in _blocks(job, options, progress)]


def in_turn(
    paths: Sequence[Path], options: MeasureOptions, blocks: int = BLOCKS, progress: Progress | None = None
) -> list[list[list[float]]]:
    """Returns milliseconds [files][processes][blocks]; blocks of all files alternate in the same processes.

    Raises:
        InputError: one cannot be loaded or run here.
    """
    return _blocks(_job(paths, options, blocks), options, progress)


def _blocks(job: MeasureJob, options: MeasureOptions, progress: Progress | None) -> list[list[list[float]]]:
    """Returns milliseconds [files][processes][blocks]."""
    answers = _answers(job, options, Stopwatch(progress))
    return [[a["files"][i]["blocks_ms"] for a in answers] for i in range(len(job.files))]


def _job(paths: Sequence[Path], options: MeasureOptions, blocks: int) -> MeasureJob:
    return MeasureJob(
        files=tuple(str(p.absolute()) for p in paths),
        batch=options.batch,
        threads=options.threads,
        cpus=fastest_cpus(options.threads) if options.pin else None,
        blocks=blocks if options.runs is None else min(blocks, options.runs),
        runs=options.runs,
        plugins=tuple(str(p.absolute()) for p in options.plugins),
    )


def _answers(job: MeasureJob, options: MeasureOptions, watch: Stopwatch) -> list[dict[str, Any]]:
    """Runs the processes and returns an answer of each; each starts with another file."""
    with watch.stage("bench", options.processes * job.blocks * len(job.files)) as advance:
        jobs = [replace(job, first=i % len(job.files)) for i in range(options.processes)]
        return [_run({"task": "measure", "job": asdict(j)}, advance) for j in jobs]


def _subject(
    path: Path,
    answers: Sequence[dict[str, Any]],
    meter: str | None,
    single: Mapping[str, Any],
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
        peak_memory_bytes=single["peak_memory_bytes"],
        device_memory_bytes=single["files"][0]["device_memory_bytes"],
        processes=tuple(processes),
        profile=profile,
        energy=energy,
    )


def latency_of(sketches: Sequence[Sketch]) -> Latency:
    """Returns mean and quantiles of all samples together, in milliseconds."""
    values, intervals = summary(sketches, list(QUANTILES.values()))
    names = ("mean", *QUANTILES)
    milliseconds = {n: v / 1e6 for n, v in zip(names, values, strict=True)}
    bounds = {n: (low / 1e6, high / 1e6) for n, (low, high) in zip(names, intervals, strict=True)}
    return Latency.model_validate({**milliseconds, "samples": sum(s.count for s in sketches), "interval95": bounds})


def _run(request: dict[str, Any], advance: Any) -> Any:
    """Runs a worker and returns its answer. Raises InputError with the worker's reason, or with what it died of."""
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
            lines = errors.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"exit code {worker.returncode}"
            raise InputError(f"{request['job']['files'][0]}: the process that ran it died: {reason}")
        finally:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    pipe.close()
