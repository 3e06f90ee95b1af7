"""The manifest of a bundle, `manifest.json`: its fields, their validation, and writing it deterministically."""

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
DIGEST = "digest"
"""The field of a manifest with the SHA-256 of the others, so that a change by hand is seen; older ones have none."""

bytes_ = bytes
"""Alias of the type, which the field `bytes` of `FileRecord` shadows."""


class SiteRecord(Record):
    """One site, its cost and its widths. Bits are None for an operand that stays in floating point."""

    name: str
    kind: str
    role: str
    w_bits: PositiveInt | None
    a_bits: PositiveInt | None
    params: NonNegativeInt
    macs: NonNegativeInt
    score: FiniteFloat | None


class FloatLayerRecord(Record):
    """A layer with weights that no target computes on integers, e.g. a ConvTranspose: it is in float in every file."""

    name: str
    operator: str
    params: NonNegativeInt


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
        """Returns the record of a file with this content."""
        return cls(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))

    @classmethod
    def of_file(cls, path: Path, copy: BinaryIO | None = None) -> FileRecord:
        """Returns the record of the file at `path`, and writes its content to `copy` if that is given."""
        sha, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):  # a model can be gigabytes
                sha.update(chunk)
                size += len(chunk)
                if copy is not None:
                    copy.write(chunk)
        return cls(sha256=sha.hexdigest(), bytes=size)


class Manifest(BaseModel):
    """The content of `manifest.json`. Further fields are allowed if they are JSON, and are preserved.

    `left_out` says of each target of the recipe that has no file here, because its verification failed, why.
    """

    # NaN stays NaN for `to_json` to refuse it; by default it would become null.
    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")
    __pydantic_extra__: dict[str, JsonValue]

    # `schema` itself is taken by a method of BaseModel.
    schema_id: Literal["qvit-deploy/bundle/1"] = Field(default=SCHEMA, alias="schema")
    task: str = CLASSIFY.name
    source: dict[str, JsonValue]
    recipe: dict[str, JsonValue]
    sites: tuple[SiteRecord, ...]
    in_float: tuple[FloatLayerRecord, ...] = ()
    summary: Summary
    verification: Verification
    left_out: dict[str, str] = {}
    files: dict[str, FileRecord] = {}

    @property
    def image_name(self) -> str | None:
        """What the model that was handed in calls its image input, where that is not its name in the files."""
        name = self.source.get("image_name")
        return name if isinstance(name, str) else None

    @field_validator("files")
    @classmethod
    def _names_stay_inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            check_name(name)
        return files

    def to_json(self) -> bytes:
        """Returns deterministic ASCII text: sorted keys, two spaces, final newline, and the `DIGEST` of all the rest.

        Raises:
            NonFiniteError: a number is not finite.
        """
        tree = self.model_dump(mode="json", by_alias=True)
        if self.task == CLASSIFY.name:  # the default of manifests that name no task
            del tree["task"]
        if not self.in_float:  # most models have none
            del tree["in_float"]
        if not self.left_out:
            del tree["left_out"]
        where = non_finite(tree)
        if where:
            raise NonFiniteError(f"{MANIFEST} would hold NaN or infinity at {where}; a measured number went wrong")
        return _text({**tree, DIGEST: digest(tree)})


def digest(tree: Mapping[str, Any]) -> str:
    """Returns the SHA-256 (hex) of the text of a manifest without its digest."""
    return hashlib.sha256(_text({key: value for key, value in tree.items() if key != DIGEST})).hexdigest()


def _text(tree: Mapping[str, Any]) -> bytes:
    # ASCII, because the path of a model need not be UTF-8 and Python holds its odd bytes as lone surrogates.
    return (json.dumps(tree, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def validate(tree: Mapping[str, Any], where: str) -> Manifest:
    """Returns `tree` as a Manifest. Raises BundleError naming `where` and the first invalid field."""
    return validated(Manifest, tree, f"{where} is not valid", BundleError)


def check_name(name: str) -> None:
    """Raises BundleError unless `name` is a plain relative path with forward slashes, which stays in its bundle."""
    path = PurePosixPath(name)
    plain = name == str(path) and path.parts and not path.is_absolute() and ".." not in path.parts
    if not plain or name == MANIFEST or "\\" in name or "\0" in name:
        raise BundleError(f"{name!r} cannot be the name of a file in a bundle")
