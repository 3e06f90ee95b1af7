"""Recipe: every choice a compile depends on, as one frozen value with a digest."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator, model_validator

from qvit_deploy.errors import InputError
from qvit_deploy.validation import problems_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Score = Literal["lrp", "relp", "gradient", "exact", "uniform", "random", "inverted"]
Rules = Literal["deep-taylor", "relp", "attnlrp"]
RowImportance = Literal["none", "gradient", "relp"]
Compensation = Literal["none", "bias", "gptq"]
Effort = Literal["fast", "default", "high"]
SoftmaxCodes = Literal["auto", "uniform", "log2", "log-sqrt2", "levels"]
Granularity = Literal["tensor", "head"]

EFFORTS: dict[Effort, dict[str, Any]] = {
    "fast": {"compensate": "bias", "row_importance": "none"},
    "default": {},
    "high": {"distill_epochs": 40},
}
"""What `--effort` sets; choices made explicitly win."""

BUDGETS = ("mean_bits", "max_size_mb", "max_bitops_g", "max_latency_ms")
"""The fields of a recipe that bound what its allocation may cost."""


class Recipe(BaseModel):
    """The choices of one compile. Two compiles with equal recipes, models and data write equal bundles."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bits: tuple[int, ...] = Field((4, 6, 8), description="widths to choose from, 2 to 8, e.g. 4,6,8")
    uniform: str | None = Field(None, description="one width everywhere, e.g. w8a8; excludes budgets")
    mean_bits: float | None = Field(None, description="mean bits of weights (by parameters) and of activations")
    max_size_mb: float | None = Field(None, description="packed weights of all sites, MB (1e6 bytes)")
    max_bitops_g: float | None = Field(None, description="giga BitOps per image: sum of MACs x w_bits x a_bits")
    max_latency_ms: float | None = Field(None, description="milliseconds of all sites by the latency table")
    latency_table: Path | None = Field(
        None, description="JSON with the ms of every site and width, measured on the device"
    )
    separate_bits: bool = Field(False, description="let a site's weights and activations have different widths")
    score: Score = Field("gradient", description="what ranks the sites when bits are allocated")
    rules: Rules = Field("attnlrp", description="relevance rule set of the lrp, random and inverted scores")
    first_last_bits: int | None = Field(
        8, description="fixed width of the first site and each output's last; None frees them"
    )
    keep_float: tuple[str, ...] = Field((), description="glob of layers that stay in float, e.g. 'head*'")
    widths: tuple[str, ...] = Field((), description="glob of layers and their width, e.g. 'blocks.0.*=w8a8'")
    attention: Literal["float", "integer"] = Field("float", description="whether attention products get sites")
    softmax: SoftmaxCodes = Field("auto", description="codes of attention probabilities; auto: the least output error")
    softmax_rows: bool = Field(True, description="divide each row of probabilities by its largest before quantizing")
    attention_granularity: Granularity = Field("tensor", description="scales of query, key and value")
    calibration_images: int = Field(64, ge=2, description="calibration images to use")
    batch_size: int = Field(8, ge=1)
    seed: NonNegativeInt = 0
    fold: bool = Field(True, description="channel-wise quantization after LayerNorm, folded into its parameters")
    fold_clip: float = Field(
        8.0, gt=1, description="channel scales this many times above the median are clipped before folding"
    )
    fold_heads: bool = Field(True, description="maps of each head's channels, folded around the attention products")
    equalize: bool = Field(True, description="a factor and shift per channel before narrow inputs nothing can absorb")
    row_importance: RowImportance = Field(
        "relp", description="what weights the rows that ranges and weights are fitted to"
    )
    compensate: Compensation = Field("gptq", description="how rounding errors are made good")
    distill_epochs: int = Field(
        0,
        ge=0,
        description="times every calibration image is seen when the whole plan is tuned",
    )
    task: str | None = Field(
        None,
        description="what the outputs mean, e.g. segment:axis=1; without it, classify for one output [batch, classes], "
        "else outputs",
    )
    uint8_input: bool = Field(
        False, description="let the files take the image as uint8 pixels and normalize it by mean and std themselves"
    )
    targets: tuple[str, ...] = Field(
        (), description="targets to write files for, beside the one that all others are verified against"
    )

    @field_validator("bits")
    @classmethod
    def _bits_in_range(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
        if not bits or any(not 2 <= b <= 8 for b in bits):
            raise ValueError("bits must be between 2 and 8, e.g. 4,6,8")
        return tuple(sorted(set(bits)))

    @field_validator("uniform")
    @classmethod
    def _uniform_reads(cls, uniform: str | None) -> str | None:
        if uniform is not None:
            parse_uniform(uniform)
        return uniform

    @field_validator("widths")
    @classmethod
    def _widths_read(cls, widths: tuple[str, ...]) -> tuple[str, ...]:
        for width in widths:
            parse_width(width)
        return widths

    @model_validator(mode="after")
    def _one_goal(self) -> Recipe:
        budgets = [n for n in BUDGETS if getattr(self, n) is not None]
        if self.uniform is not None and budgets:
            raise ValueError(f"uniform and {budgets[0]} exclude each other; give one")
        if self.max_latency_ms is not None and self.latency_table is None:
            raise ValueError("max_latency_ms needs a latency_table measured on the device")
        return self

    @classmethod
    def load(cls, path: Path | None, *, effort: str | None = None, **overrides: Any) -> Recipe:
        """Starts from what `effort` sets, reads a TOML recipe over it and applies the overrides that are not None.

        Raises:
            InputError: the file is missing or not TOML, or a value is unknown or out of range; names the file where all
                faults are of values in it.
        """
        presets = EFFORTS.get(cast(Effort, effort or "default"))
        if presets is None:
            raise InputError(f"--effort {effort!r} is not one of {', '.join(EFFORTS)}")
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(path.read_text(encoding="utf-8"))
            except OSError as error:
                raise InputError(f"recipe {path}: cannot be read ({error.strerror})") from error
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise InputError(f"recipe {path}: not valid TOML: {error}") from error
        overriding = {k: v for k, v in overrides.items() if v is not None}
        try:
            return cls.model_validate({**presets, **values, **overriding})
        except ValidationError as error:
            fields = {str(problem["loc"][0]) if problem["loc"] else "" for problem in error.errors()}
            of_the_file = fields <= values.keys() - overriding.keys()
            raise InputError(f"recipe{f' {path}' if of_the_file else ''}: {problems_text(error)}") from None

    @property
    def has_budget(self) -> bool:
        """Whether any field bounds the cost of the allocation."""
        return any(getattr(self, name) is not None for name in BUDGETS)

    def digest(self) -> str:
        """Returns the SHA-256 of the canonical JSON of all choices, hexadecimal."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def parse_uniform(text: str) -> tuple[int, int]:
    """Reads 'w4a8' as (4, 8). Raises ValueError for anything else."""
    match = re.fullmatch(r"w([2-8])a([2-8])", text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not a width like w8a8 (2 to 8 bits each)")
    return int(match[1]), int(match[2])


def parse_width(text: str) -> tuple[str, tuple[int, int]]:
    """Reads 'blocks.0.*=w4a8' as ('blocks.0.*', (4, 8)). Raises ValueError for anything else."""
    pattern, _, width = text.rpartition("=")
    if not pattern:
        raise ValueError(f"{text!r} is not a pattern and a width like 'blocks.0.*=w8a8'")
    return pattern, parse_uniform(width)


def narrowest(recipe: Recipe) -> int:
    """Returns the fewest activation bits a site without a width of its own may get."""
    return min(recipe.bits) if recipe.uniform is None else parse_uniform(recipe.uniform)[1]
