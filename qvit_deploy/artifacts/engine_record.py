"""Engines on disk: what is asked for, the record beside a built one, and whether it may be run here.

An engine is `NAME.engine` with `NAME.json` beside it. The record names the file it was built from, the library and the
GPU it is for, and the digest of the engine: an engine without its record, or changed since, is refused before any
library sees it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import InputError
from qvit_deploy.validation import Record, first_problem, parse_json

TargetName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
"""Name of the target that an engine is for; whoever builds or runs it knows which there are."""

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

    target: TargetName
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
    target: TargetName
    batch: Batch
    hardware: Hardware
    plugins: tuple[Plugin, ...]
    onnx: FileRecord
    onnx_name: str
    engine: FileRecord
    seconds: float
    build: BuildResult


def engines_in(folder: Path, target: str) -> list[tuple[Path, EngineRecord]]:
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
