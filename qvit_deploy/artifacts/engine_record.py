"""Engines on disk: what is asked for, the record beside a built one, and whether it may be run here.

An engine is `NAME.engine` with `NAME.json` beside it. The record names the file it was built from, the library and the
GPU it is for, and the digest of the engine: an engine without its record, or changed since, is refused before any
library sees it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import InputError
from qvit_deploy.validation import Record, first_problem, parse_json

Target = Literal["tensorrt", "tensorrt-rtx"]
Hardware = Literal["none", "ampere-plus", "same-capability"]
SCHEMA: Literal["qvit-deploy/engine/1"] = "qvit-deploy/engine/1"
FLOAT32 = "float32"
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


class Batch(Record):
    """Images per run: fewest, the number that kernels are chosen for, most."""

    least: int = Field(default=1, ge=1)
    best: int = Field(default=1, ge=1)
    most: int = Field(default=1, ge=1)

    @classmethod
    def parse(cls, text: str) -> Batch:
        """'1:4:8', or '4' for exactly four. Raises InputError."""
        match = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", text)
        numbers = [int(n) for n in match.groups() if n is not None] if match else []
        least, best, most = numbers * 3 if len(numbers) == 1 else numbers or (0, 0, 0)
        if not 1 <= least <= best <= most:
            raise InputError(
                f"--batch {text!r}: give MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, e.g. 1:4:8, or one number"
            )
        return cls(least=least, best=best, most=most)

    def __str__(self) -> str:
        return str(self.best) if self.least == self.most else f"{self.least}-{self.best}-{self.most}"


class Plugin(Record):
    """A shared library whose operators an engine calls."""

    name: str
    sha256: str


class Tensor(Record):
    """One input or output of an engine; a batch that may vary is -1."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class BuildOptions(Record):
    """How an engine is built, whoever builds it.

    Attributes:
        plugins: libraries of the plugins that the file calls, loaded before it is parsed.
        hardware: other GPUs the engine is to run on.
        timing_cache: kept between builds; made when it is missing.
        workspace_mb: most device memory a kernel may use beside its operands; None: all of it.
    """

    batch: Batch = Batch()
    plugins: tuple[Path, ...] = ()
    hardware: Hardware = "none"
    timing_cache: Path | None = None
    workspace_mb: int | None = None


class BuildRequest(BuildOptions):
    """What the building process is told.

    Attributes:
        onnx: the file to build from.
        engine: where the engine is written.
        sm: compute capability, 86 for 8.6; None builds for the GPU at hand.
        layer_info: where the layers of the built engine are described; needs a GPU.
    """

    target: Target
    onnx: Path
    engine: Path
    sm: int | None = None
    layer_info: Path | None = None


class BuildResult(Record):
    """What the building process says when it is done.

    Attributes:
        version: of the library, such as 10.3.0.
        sm, gpu: what the engine is for; the GPU's name where it was built on one.
        messages: warnings and errors of the library, each once.
        layers: how many the parsed network has.
    """

    version: str
    sm: int
    gpu: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[str, ...]
    messages: tuple[str, ...]
    layers: int
    parse_seconds: float
    build_seconds: float
    peak_memory_bytes: int


class EngineRecord(Record):
    """`NAME.json` beside `NAME.engine`."""

    schema_id: Literal["qvit-deploy/engine/1"] = Field(default=SCHEMA, alias="schema")
    target: Target
    batch: Batch
    hardware: Hardware
    plugins: tuple[Plugin, ...]
    onnx: FileRecord
    onnx_name: str
    engine: FileRecord
    seconds: float
    build: BuildResult


def engines_in(folder: Path, target: Target) -> list[tuple[Path, EngineRecord]]:
    """The engines of `target` in a folder by name, each whole and with its record. Raises InputError."""
    found = [(path, read_engine(path)) for path in sorted(folder.glob("*.engine"))]
    return [(path, record) for path, record in found if record.target == target]


def record_path(engine: Path) -> Path:
    return engine.with_suffix(".json")


def read_engine(path: Path) -> EngineRecord:
    """The record of the engine at `path`, whose bytes are checked.

    Raises:
        InputError: there is no engine or no record, or the engine was cut short or changed.
    """
    if not path.is_file():
        raise InputError(f"no engine at {path}")
    record = record_path(path)
    if not record.is_file():
        raise InputError(
            f"{path} has no record {record.name} beside it, so nothing says what GPU and library it is for; "
            "build it with qvit-deploy build"
        )
    try:
        found = EngineRecord.model_validate(parse_json(record.read_bytes()))
    except ValueError as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{record} is not the record of an engine ({reason}); build the engine again") from None
    size = path.stat().st_size
    if size < found.engine.bytes:
        raise InputError(f"{path} is truncated: {size:,} of {found.engine.bytes:,} bytes; copy or build it again")
    if FileRecord.of_file(path) != found.engine:
        raise InputError(f"{path} was modified since it was built (its SHA-256 differs); copy or build it again")
    return found


def runs_on(record: EngineRecord, sm: int) -> bool:
    """Whether the engine was built for GPUs of this compute capability."""
    return sm >= 80 if record.hardware == "ampere-plus" else sm == record.build.sm


def require_device(path: Path, record: EngineRecord, sm: int, gpu: str) -> None:
    """Raises InputError if the engine is for another GPU than the one at hand, with what to do about it.

    Args:
        sm, gpu: compute capability and name of the GPU at hand.
    """
    built, again = record.build, _again(record)
    if not runs_on(record, sm):
        raise InputError(f"{path} was built for SM{built.sm}; this GPU ({gpu}) is SM{sm}: {again}")
    if record.hardware == "none" and built.gpu not in (None, gpu):
        raise InputError(
            f"{path} was built on {built.gpu}; this GPU is {gpu}: {again}, or with --hardware same-capability"
        )


def require_library(path: Path, record: EngineRecord, version: tuple[int, ...], plugins: tuple[Path, ...]) -> None:
    """Raises InputError if the engine cannot run with this library, or with these plugins, with what to do about it.

    Args:
        version: of the installed library.
        plugins: libraries handed in.
    """
    built, again = record.build, _again(record)
    if tuple(int(n) for n in built.version.split(".")[:3]) != version[:3]:
        here = ".".join(map(str, version))
        raise InputError(
            f"{path} was built by {record.target} {built.version} and runs on no other; here is {here}: {again}"
        )
    given = {p.name: p for p in plugins}
    for plugin in record.plugins:
        if plugin.name not in given:
            raise InputError(f"{path} needs the plugin library {plugin.name}: pass --plugin PATH/{plugin.name}")
        if not given[plugin.name].is_file():
            raise InputError(f"no plugin library at {given[plugin.name]}")
        if FileRecord.of_file(given[plugin.name]).sha256 != plugin.sha256:
            raise InputError(
                f"{given[plugin.name]} is not the library {path} was built with (its SHA-256 differs): {again}"
            )


def _again(record: EngineRecord) -> str:
    return f"build it again on this machine (qvit-deploy build --target {record.target})"


def check_hardware(hardware: str) -> Hardware:
    """`hardware` if there is one of that name. Raises InputError."""
    if hardware not in get_args(Hardware):
        raise InputError(f"--hardware {hardware!r} is not one of {', '.join(get_args(Hardware))}")
    return hardware  # type: ignore[return-value]


def check_target(target: str) -> Target:
    """`target` if there is one of that name. Raises InputError."""
    if target not in get_args(Target):
        raise InputError(f"--target {target!r} is not one of {', '.join(get_args(Target))}")
    return target  # type: ignore[return-value]
