"""The widths that the papers' tables have a row for, what they ask of the compiler, and what a bundle says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """One width of the table.

    Attributes:
        bits: nominal width, whose published numbers stand beside ours; None for the float model.
        widths: how each layer's are chosen, for the reader of the CSV.
        choices: fields of the recipe.
    """

    bits: int | None
    widths: str
    choices: Mapping[str, Any]


RUNS = {
    "FP32": Run(None, "float", {}),
    "W4A4": Run(4, "w4a4", {"uniform": "w4a4"}),
    "W6A6": Run(6, "w6a6", {"uniform": "w6a6"}),
    # A mean of 4 over {4, 6, 8} could only be 4 everywhere.
    "MP4": Run(4, "mean 4 of 3, 4, 5 (our choice)", {"mean_bits": 4, "bits": (3, 4, 5)}),
    "MP6": Run(6, "mean 6 of 4, 6, 8 (our choice)", {"mean_bits": 6, "bits": (4, 6, 8)}),
}

MANIFEST_COLUMNS = ("quantized", "mean_w_bits", "mean_a_bits", "weight_bytes", "calibration_images")


def recipe_of(run: Run, images: int, seed: int, file: Path | None, **choices: Any) -> Recipe | None:
    """Returns the recipe of a run; None for float.

    Args:
        images: to calibrate on.
        file: TOML with what the run and `choices` leave open.

    Raises:
        InputError: the file or what it holds cannot be used.
    """
    if run.bits is None:
        return None
    return Recipe.load(file, **run.choices, attention="integer", calibration_images=images, seed=seed, **choices)


def manifest_cells(manifest: Manifest) -> dict[str, str]:
    """Returns the cells of `MANIFEST_COLUMNS`."""
    kinds = Counter(site.kind for site in manifest.sites)
    widths = Counter(f"w{site.w_bits}a{site.a_bits}" for site in manifest.sites)
    fields = manifest.model_dump()
    return {
        "quantized": "; ".join(", ".join(f"{n} {what}" for what, n in sorted(c.items())) for c in (kinds, widths)),
        "mean_w_bits": f"{manifest.summary.mean_w_bits:.3f}",
        "mean_a_bits": f"{manifest.summary.mean_a_bits:.3f}",
        "weight_bytes": str(manifest.summary.weight_bytes),
        "calibration_images": str(fields["calibration"]["images"]),
    }


def positive(text: str) -> int:
    """Reads a whole number from 1 on, as an argument's type. Raises ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number
