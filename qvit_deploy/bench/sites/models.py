"""A folder with one small quantized model per site shape and width, whose times are the cost of a width on a target.

Writing one needs the compile half (`bench.sites.emission`); timing one (`bench.sites.times`) does not, so that a device
without torch can be measured with a folder that was written elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.artifacts.latency_table import Width
from qvit_deploy.artifacts.manifest import MANIFEST
from qvit_deploy.errors import InputError
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.targets.target import AnyTarget
from qvit_deploy.targets.tensorrt.engine.builder.plugin_build import LIBRARY
from qvit_deploy.validation import Record, read_json, validated

INDEX = "index.json"
SCHEMA: Literal["qvit-deploy/site-models/2"] = "qvit-deploy/site-models/2"
OVERHEAD = "overhead.onnx"
"""File of a model that does next to nothing, whose time is the overhead of every run."""

DEFAULT_BITS = (4, 6, 8)

FileName = Annotated[str, Field(pattern=r"^[\w.-]+\.onnx$")]

SITE_TARGETS = tuple(name for name, target in TARGETS.items() if target.times_sites)


class Index(Record):
    """`index.json` of a folder of site models.

    Attributes:
        target: the target that the models are timed on.
        file_for: the target as whose file of a bundle they are emitted.
        batch: images per run.
        sites: site -> width (`w4a4`) -> file. Every site has the same widths.
        baselines: file -> the file whose time is subtracted from its own; `OVERHEAD` where none is listed.
    """

    schema_id: Literal["qvit-deploy/site-models/2"] = Field(alias="schema")
    target: str
    file_for: str = Field(alias="profile")
    batch: PositiveInt
    sites: Annotated[Mapping[str, Mapping[Width, FileName]], Field(min_length=1)]
    baselines: Mapping[FileName, FileName]

    @field_validator("target", "file_for")
    @classmethod
    def _target_is_known(cls, name: str, info: ValidationInfo) -> str:
        known = SITE_TARGETS if info.field_name == "target" else TARGETS
        if name not in known:
            raise ValueError(f"{name!r} is not one of {', '.join(known)}")
        return name

    @field_validator("sites")
    @classmethod
    def _widths_agree(cls, sites: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, str]]:
        if len({tuple(sorted(files)) for files in sites.values()}) != 1 or not all(sites.values()):
            raise ValueError("the sites do not all have the same widths")
        return sites

    @property
    def calls_plugins(self) -> bool:
        """Returns whether the models call operators of our own, which TensorRT runs in plugins."""
        return TARGETS[self.file_for].calls_plugins

    @property
    def widths(self) -> tuple[str, ...]:
        """Returns the widths of every site, such as `w4a4`, sorted."""
        return tuple(sorted(next(iter(self.sites.values()))))

    @property
    def files(self) -> dict[str, str]:
        """Returns file -> a description by its first site and width; the overhead's comes first."""
        descriptions = {OVERHEAD: "the model that does nothing"}
        for site, widths in self.sites.items():
            for width, name in widths.items():
                descriptions.setdefault(name, f"site {site!r} at {width}")
        for name, baseline in self.baselines.items():
            descriptions.setdefault(baseline, f"the LayerNorm in front of {descriptions.get(name, name)}")
        return descriptions


@dataclass(frozen=True)
class SiteModelRequest:
    """The site models that a run writes or times.

    Attributes:
        target: the target that they are timed on.
        bits, batch: None for those of the folder, or `DEFAULT_BITS` and 1 where it is written.
        plugins: libraries of TensorRT plugins.

    Raises:
        InputError: sites cannot be timed on the target, or not in plugins, or a number is out of range.
    """

    target: str
    bits: tuple[int, ...] | None = None
    batch: int | None = None
    plugins: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.target not in SITE_TARGETS:
            raise InputError(
                f"bench-sites times models on {', '.join(SITE_TARGETS)}, not on {self.target!r}; --plugin makes "
                "those of tensorrt call plugins"
            )
        if self.bits is not None and (not self.bits or any(not 2 <= b <= 8 for b in self.bits)):
            raise InputError(f"--bits {','.join(map(str, self.bits))}: widths are 2 to 8")
        if self.batch is not None and self.batch < 1:
            raise InputError(f"--batch must be at least 1, got {self.batch}")
        self.target_value.part_targets(self.plugins)

    @property
    def target_value(self) -> AnyTarget:
        """Returns the target of the name `target`."""
        return TARGETS[self.target]

    @property
    def widths(self) -> tuple[str, ...] | None:
        """Returns the widths, such as `w4a4`, sorted; None for those of the folder."""
        return None if self.bits is None else tuple(f"w{b}a{b}" for b in sorted(set(self.bits)))


def read_index(folder: Path) -> Index:
    """Reads the index of a folder. Raises InputError if `write_site_models` did not write it, or a model is missing."""
    index = validated(Index, read_json(folder / INDEX), str(folder / INDEX))
    missing = [name for name in index.files if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {missing[0]}, which its {INDEX} names; write the models again")
    return index


def require_requested(folder: Path, index: Index, request: SiteModelRequest) -> None:
    """Raises InputError if the models in `folder` do not fit the request."""
    another = "or name another folder"
    if index.target != request.target:
        raise InputError(
            f"{folder} holds site models for {index.target}, not {request.target}: pass --target {index.target}, "
            f"{another}"
        )
    if request.batch not in (None, index.batch):
        raise InputError(
            f"{folder} holds site models for batches of {index.batch}, not {request.batch}: leave --batch out, "
            f"{another}"
        )
    if request.widths not in (None, index.widths):
        raise InputError(
            f"{folder} holds site models of {', '.join(index.widths)}, not {', '.join(request.widths or ())}: leave "
            f"--bits out, {another}"
        )
    if request.plugins and not index.calls_plugins:
        raise InputError(
            f"{folder} holds site models of the {index.file_for} file, which calls no plugins: leave --plugin out, "
            f"{another}"
        )


def require_library(folder: Path, index: Index, request: SiteModelRequest) -> None:
    """Raises InputError if the models call plugins and no library is named."""
    if index.calls_plugins and TARGETS[index.target].takes_plugins and not request.plugins:
        raise InputError(
            f"{folder} holds site models that run in the plugins of {LIBRARY}: pass --plugin PATH/{LIBRARY} "
            "(qvit-deploy build-plugin compiles it)"
        )


def require_sites(bundle: Path, folder: Path, index: Index) -> None:
    """Raises InputError if `bundle` is a bundle whose sites are not those of the models."""
    if not (bundle / MANIFEST).exists():
        return
    bundle_sites = {s.name for s in read_bundle(bundle, verify=False).manifest.sites}
    for name in sorted(bundle_sites ^ set(index.sites)):
        lacks, has = (folder, bundle) if name in bundle_sites else (bundle, folder)
        raise InputError(f"{folder} holds models of another network's sites: {lacks} has no {name!r}, {has} has")
