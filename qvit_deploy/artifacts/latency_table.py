"""Latency tables: how long every site takes at every width, measured on one device. Plain JSON, no torch.

    {"schema": "qvit-deploy/latency/1",
     "device": "Jetson AGX Orin 64GB, MAXN",
     "fingerprint": "sm_87 TensorRT 10.7 1300 MHz",
     "batch_size": 1,
     "sites": {"blocks.0.attn.qkv": {"w4a4": 0.031, "w8a8": 0.047},
               "blocks.0.attn.proj": {"w4a4": 0.012, "w8a8": 0.017}}}

`sites` has milliseconds per run of the whole batch, by site name and width. `device` is for people; equal
`fingerprint`s say that two tables may be compared. What runs outside the sites (LayerNorm, softmax, residual additions)
is not in the table: a budget bounds the sum over the sites. Sites a model does not have are ignored, so that one table
can serve a model with and without integer attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, PositiveInt

from qvit_deploy.allocate.cost import Option
from qvit_deploy.errors import InputError
from qvit_deploy.validation import Record, read_json, validated

SCHEMA: Literal["qvit-deploy/latency/1"] = "qvit-deploy/latency/1"

Width = Annotated[str, Field(pattern="^w[2-8]a[2-8]$")]
Milliseconds = Annotated[FiniteFloat, Field(gt=0, strict=True)]


class LatencyTable(Record):
    """A latency table; `model_dump_json(by_alias=True)` writes the JSON above."""

    # `schema` itself is taken by a method of BaseModel.
    schema_id: Literal["qvit-deploy/latency/1"] = Field(alias="schema")
    device: str
    fingerprint: str
    batch_size: PositiveInt
    sites: Mapping[str, Mapping[Width, Milliseconds]]


def read_latency(path: Path) -> LatencyTable:
    """Reads the table at `path`. Raises InputError naming the file and its first invalid field, with its site."""
    description = f"latency table {path}"
    return validated(LatencyTable, read_json(path, description), description)


def site_latencies(
    table: LatencyTable, path: str, options: Mapping[str, Iterable[Option]]
) -> dict[str, dict[Option, int]]:
    """Returns site name -> nanoseconds of each of its options, integers so that sums over sites are exact.

    Args:
        path: where the table was read from, for messages.
        options: site name -> the widths it may take.

    Raises:
        InputError: the table lacks a site or a width of it; names both and the file.
    """
    latencies: dict[str, dict[Option, int]] = {}
    for site, choices in options.items():
        if site not in table.sites:
            raise InputError(
                f"latency table {path} has no site {site!r}; measure it on the device, or use the table of this model"
            )
        measured = table.sites[site]
        latencies[site] = {}
        for option in choices:
            width = option.text
            if width not in measured:
                listed = ", ".join(sorted(measured)) or "nothing"
                raise InputError(
                    f"latency table {path}: site {site!r} lacks {width} (it has {listed}); measure it, or choose other "
                    "widths"
                )
            latencies[site][option] = round(measured[width] * 1e6)
    return latencies
