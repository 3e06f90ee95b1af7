"""Engines on disk: the options of a build, the record of a built engine, and reading it.

An engine is `NAME.engine` next to its record `NAME.json`. The record names the file it was built from, the library and
the GPU it is for, and the digest of the engine: an engine without its record, or changed since, is refused before any
library reads it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from qvit_deploy.artifacts.manifest import FileRecord
from qvit_deploy.errors import InputError
from qvit_deploy.validation import Record, parse_json, problems_text

TargetName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
"""Name of the target that an engine is for, one of `targets.registry`."""

Hardware = Literal["none", "ampere-plus", "same-capability"]
SCHEMA: Literal["qvit-deploy/engine/1"] = "qvit-deploy/engine/1"
FLOAT32, UINT8 = "float32", "uint8"
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


class Batch(Record):
    """Images per run: the fewest, the number that kernels are optimized for, the most."""

    least: int = Field(default=1, ge=1)
    best: int = Field(default=1, ge=1)
    most: int = Field(default=1, ge=1)

    @classmethod
    def parse(cls, text: str) -> Batch:
        """Parses '1:4:8', or '4' for exactly four. Raises InputError."""
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
    """The options of a build that do not depend on who runs it: this package or trtexec.

    Attributes:
        plugins: libraries of the plugins that the file calls, loaded before it is parsed.
        hardware: other GPUs the engine is to run on.
        timing_cache: file of kernel timings that builds share; created when it is missing.
        workspace_mb: most device memory a kernel may use besides its operands, MiB; None for all of it.
    """

    batch: Batch = Batch()
    plugins: tuple[Path, ...] = ()
    hardware: Hardware = "none"
    timing_cache: Path | None = None
    workspace_mb: int | None = None


class BuildRequest(BuildOptions):
    """The input of the building process.

    Attributes:
        onnx: the file to build from.
        engine: where the engine is written.
        sm: compute capability, 86 for 8.6; None builds for the GPU at hand.
        layer_info: where the description of the engine's layers is written; needs a GPU. None for none.
    """

    target: TargetName
    onnx: Path
    engine: Path
    sm: int | None = None
    layer_info: Path | None = None


class BuildResult(Record):
    """The output of the building process.

    Attributes:
        version: of the library, such as 10.3.0.
        sm, gpu: compute capability that the engine is for, and the GPU's name where it was built on one.
        messages: warnings and errors of the library, each once.
        layers: number of layers of the parsed network.
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
    """The record of an engine, `NAME.json` next to `NAME.engine`.

    Attributes:
        onnx, onnx_name: the file that it was built from.
        seconds: duration of the build, its process included.
    """

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
    """Returns the engines of `target` in a folder, sorted by name, with their records. Raises as `read_engine`."""
    engines = [(path, read_engine(path)) for path in sorted(folder.glob("*.engine"))]
    return [(path, record) for path, record in engines if record.target == target]


def record_path(engine: Path) -> Path:
    """Returns the path of an engine's record."""
    return engine.with_suffix(".json")


def read_engine(path: Path) -> EngineRecord:
    """Reads the record of the engine at `path` and checks the engine against it.

    Raises:
        InputError: there is no engine or no record, or the engine was cut short or changed.
    """
    if not path.is_file():
        raise InputError(f"no engine at {path}")
    place = record_path(path)
    if not place.is_file():
        raise InputError(
            f"{path} has no record {place.name} beside it, so nothing says what GPU and library it is for; "
            "build it with qvit-deploy build"
        )
    try:
        record = EngineRecord.model_validate(parse_json(place.read_bytes()))
    except ValueError as error:
        reason = problems_text(error) if isinstance(error, ValidationError) else error
        raise InputError(f"{place} is not the record of an engine ({reason}); build the engine again") from None
    size = path.stat().st_size
    if size < record.engine.bytes:
        raise InputError(f"{path} is truncated: {size:,} of {record.engine.bytes:,} bytes; copy or build it again")
    if FileRecord.of_file(path) != record.engine:
        raise InputError(f"{path} was modified since it was built (its SHA-256 differs); copy or build it again")
    return record
