"""The JSON of one measurement: the file, the machine, the settings and the times. `docs/bench.md` describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt

from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import InputError
from qvit_deploy.validation import Record, read_json, validated

SCHEMA: Literal["qvit-deploy/measurement/1"] = "qvit-deploy/measurement/1"
_ANY_VERSION = SCHEMA.rpartition("/")[0] + "/"

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Milliseconds = Annotated[FiniteFloat, Field(gt=0, strict=True)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Interval = tuple[FiniteFloat, FiniteFloat]
"""(low, high) of a 95 % confidence interval."""


class ModelFile(FileRecord):
    """The file that ran: its name without folders, SHA-256 and size."""

    name: str


class Latency(Record):
    """Milliseconds per run of the whole batch, over all samples of all processes; quantiles to 0.05 %.

    Attributes:
        samples: number of timed runs.
        interval95: of mean, p50, p90 and p99, by bootstrap over processes; of one process the value itself, twice.
    """

    p50: Milliseconds
    p90: Milliseconds
    p99: Milliseconds
    mean: Milliseconds
    samples: Annotated[int, Field(ge=2, strict=True)]
    interval95: dict[Literal["mean", "p50", "p90", "p99"], Interval]


class Process(Record):
    """One fresh process, or one recording of another program.

    Attributes:
        blocks_ms: median of each block of consecutive runs, in order of time; `check` resamples them.
        runs: number of timed runs in all blocks.
        load_ms: from the file on disk to a model ready to run; None if not known.
        stable: whether the warm-up ended because times had settled, not because it took too long; None if not known.
        reference_ms: median of each block of the reference workload (`bench.reference_workload`), per run. Its blocks
            alternate with the file's, and one of its samples is as many runs as take the time of one of the file.
    """

    blocks_ms: Annotated[tuple[Milliseconds, ...], Field(min_length=1)]
    runs: PositiveInt
    load_ms: Milliseconds | None = None
    stable: bool | None = None
    reference_ms: tuple[Milliseconds, ...] | None = Field(default=None, alias="yardstick_ms")


class SiteTime(Record):
    """Milliseconds of one site per run: its product (with a fused bias), and quantizing its inputs."""

    name: str
    product_ms: Annotated[FiniteFloat, Field(ge=0)]
    quantize_ms: Annotated[FiniteFloat, Field(ge=0)] = 0.0


class Profile(Record):
    """The time of a run by site and operator, of the runtime's own profiler, which slows the run down.

    Attributes:
        sites: in the order of the graph.
        outside_ms: operator -> milliseconds per run of its nodes that belong to no site.
        total_ms: sum of all, per run.
    """

    sites: tuple[SiteTime, ...]
    outside_ms: dict[str, Annotated[FiniteFloat, Field(ge=0)]]
    total_ms: Milliseconds


class Energy(Record):
    """Energy by `meter` while runs were timed; of everything that the meter covers, not of this process alone."""

    meter: str
    joules_per_run: Annotated[FiniteFloat, Field(ge=0)]
    watts: Annotated[FiniteFloat, Field(ge=0)]


class Quality(Record):
    """Accuracy on `n` images: share classified correctly, share with the class of the float model."""

    top1: Share | None = None
    agreement: Share | None = None
    n: PositiveInt


class Subject(Record):
    """The measurements of one file.

    Attributes:
        throughput: images per second, batch / mean latency.
        load_ms: median over processes.
        peak_memory_bytes: largest resident memory of a process that loads and runs this file alone, interpreter
            included; None where the system does not tell.
        device_memory_bytes: GPU memory that loading and running this file alone takes; None on a CPU.
        runtime: its runtime where that is not the settings', as of an engine measured against an ONNX file.
    """

    file: ModelFile
    runtime: str | None = None
    latency_ms: Latency
    throughput: Annotated[FiniteFloat, Field(gt=0)]
    load_ms: Milliseconds | None = None
    peak_memory_bytes: PositiveInt | None = None
    device_memory_bytes: NonNegativeInt | None = None
    processes: Annotated[tuple[Process, ...], Field(min_length=1)]
    profile: Profile | None = None
    energy: Energy | None = None
    quality: Quality | None = None


class Settings(Record):
    """How the files were run. Times are comparable only under equal settings.

    Attributes:
        threads: of the runtime on the CPU; None when everything ran on a GPU.
        cpus: the CPUs that processes were pinned to; None when the system does not allow it.
        flags: other settings that change times, such as trtexec's transfers and CUDA graphs.
    """

    runtime: str
    batch: PositiveInt
    threads: PositiveInt | None = None
    cpus: tuple[NonNegativeInt, ...] | None = None
    flags: dict[str, str] = Field(default_factory=dict)


class Environment(Record):
    """The machine and its software. `bench.device.environment` says which fields must agree for a comparison."""

    machine: str
    cpu: str
    logical_cpus: PositiveInt
    memory_bytes: PositiveInt | None = None
    os: str
    governor: str | None = None
    max_mhz: FiniteFloat | None = None
    board: str | None = None
    power_mode: str | None = None
    gpu: str | None = None
    gpu_clocks: str | None = None
    load_average: FiniteFloat | None = None
    versions: dict[str, str] = Field(default_factory=dict)


class RatioRecord(Record):
    """Latency of the file over that of `against`, the median ratio of neighbouring blocks; above 1 is slower."""

    p50: Annotated[FiniteFloat, Field(gt=0)]
    interval95: Interval


class Measurement(Subject):
    """One measurement file. With `against`, both sides ran in the same processes, their blocks alternating."""

    # `schema` itself is taken by a method of BaseModel.
    schema_id: Literal["qvit-deploy/measurement/1"] = Field(default=SCHEMA, alias="schema")
    source: Literal["qvit-deploy", "trtexec"]
    measured_at: str
    settings: Settings
    environment: Environment
    against: Subject | None = None
    ratio: RatioRecord | None = None

    def tree(self) -> dict[str, Any]:
        """Returns the JSON, without the fields that have no value."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def read_measurement(path: Path) -> Measurement:
    """Reads the measurement at `path`. Raises InputError naming the file and its faults."""
    return measurement_of(read_json(path), str(path))


def measurement_of(tree: object, source: str) -> Measurement:
    """Returns a JSON tree as a measurement. Raises InputError, which begins with `source` and names the first fault."""
    schema = tree.get("schema") if isinstance(tree, dict) else None
    if schema != SCHEMA:
        if isinstance(schema, str) and schema.startswith(_ANY_VERSION):
            raise InputError(f"{source}: has schema {schema!r}, this version reads {SCHEMA!r}; measure again")
        raise InputError(f"{source}: is not a measurement of qvit-deploy bench (no schema {SCHEMA!r})")
    measured = validated(Measurement, tree, source)
    _require_equal_blocks(source, measured)
    return measured


def _require_equal_blocks(source: str, measurement: Measurement) -> None:
    for process in measurement.processes:
        if process.reference_ms is not None and len(process.reference_ms) != len(process.blocks_ms):
            raise InputError(f"{source}: yardstick_ms, of the reference workload, has other blocks than blocks_ms")
    if measurement.against is None:
        return
    sides = [[len(p.blocks_ms) for p in side.processes] for side in (measurement, measurement.against)]
    if sides[0] != sides[1]:
        raise InputError(f"{source}: its two sides have different blocks, so they were not measured in turn")
