"""What `manifest.json` says: typed, checked, and the same bytes for the same content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    field_validator,
)

from qvit_deploy.artifacts.verification import Verification
from qvit_deploy.errors import BundleError, NonFiniteError
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.validation import Record, non_finite, validated

SCHEMA: Literal["qvit-deploy/bundle/1"] = "qvit-deploy/bundle/1"
MANIFEST = "manifest.json"
bytes_ = bytes
"""The type, under a name that the field `bytes` of `FileRecord` does not hide."""


class SiteRecord(Record):
    """One site and what was decided about it. Bits are None for an operand that stays in floating point."""

    name: str
    kind: str
    role: str
    w_bits: PositiveInt | None
    a_bits: PositiveInt | None
    params: NonNegativeInt
    macs: NonNegativeInt
    score: FiniteFloat | None


class Summary(Record):
    """Cost of the whole model, quantized and in float. BitOps are MACs x weight bits x activation bits."""

    mean_w_bits: FiniteFloat
    mean_a_bits: FiniteFloat
    weight_bytes: NonNegativeInt
    float_weight_bytes: NonNegativeInt
    bitops: NonNegativeInt
    float_bitops: NonNegativeInt


class FileRecord(Record):
    """Digest and size of one file of a bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: NonNegativeInt

    @classmethod
    def of(cls, content: bytes_) -> FileRecord:
        return cls(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))

    @classmethod
    def of_file(cls, path: Path, copy: BinaryIO | None = None) -> FileRecord:
        """Of the file at `path`, read in pieces because a model can be gigabytes; `copy` receives the contents."""
        sha, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                sha.update(piece)
                size += len(piece)
                if copy is not None:
                    copy.write(piece)
        return cls(sha256=sha.hexdigest(), bytes=size)


class Manifest(BaseModel):
    """`manifest.json`. Fields beyond these are kept as they are, as long as they are JSON."""

    # NaN stays NaN for `to_json` to refuse it; by default it would become null.
    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")
    __pydantic_extra__: dict[str, JsonValue]

    # `schema` itself is taken by a method of BaseModel.
    schema_id: Literal["qvit-deploy/bundle/1"] = Field(default=SCHEMA, alias="schema")
    task: str = CLASSIFY.name
    source: dict[str, JsonValue]
    recipe: dict[str, JsonValue]
    sites: tuple[SiteRecord, ...]
    summary: Summary
    verification: Verification
    files: dict[str, FileRecord] = {}

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            check_name(name)
        return files

    def to_json(self) -> bytes:
        """Deterministic ASCII text: sorted keys, two spaces, final newline. Raises NonFiniteError."""
        tree = self.model_dump(mode="json", by_alias=True)
        if self.task == CLASSIFY.name:  # what a manifest without a task is about, as all once were
            del tree["task"]
        where = non_finite(tree)
        if where:
            raise NonFiniteError(f"{MANIFEST} would hold NaN or infinity at {where}; a measured number went wrong")
        # ASCII, because the path of a model need not be UTF-8 and Python holds its odd bytes as lone surrogates.
        return (json.dumps(tree, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def validate(tree: Mapping[str, Any], where: str) -> Manifest:
    """`tree` as a Manifest. Raises BundleError naming the first bad field; `where` says what is not valid."""
    return validated(Manifest, tree, f"{where} is not valid", BundleError)


def check_name(name: str) -> None:
    """Only plain relative paths with forward slashes: a manifest from elsewhere must not reach outside its bundle."""
    path = PurePosixPath(name)
    plain = name == str(path) and path.parts and not path.is_absolute() and ".." not in path.parts
    if not plain or name == MANIFEST or "\\" in name or "\0" in name:
        raise BundleError(f"{name!r} cannot be the name of a file in a bundle")
