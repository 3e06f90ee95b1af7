"""Measures what the folds of the float graph are worth: output error of quantized activations with and without them.

For the DINOv2 reference, per kind of layer and at one width, it prints the mean over the blocks of 10 log10 (sum y^2 /
sum (y' - y)^2), y the layer's output without its mean and y' the output when only its input is quantized, on sampled
calibration rows.

`fold_heads` changes what query, key and value channels are, so its row of qkv compares with no other; its effect shows
at proj and in the attention products (`tools/measure/attention_codes.py`).

"twin ranges" are PTQ4ViT's (Yuan et al. 2022, section 3.2) for fc2's input, the output of GELU, nowhere below -0.17:
one bit of the code says which of two ranges, negative or positive, the others count in, each with the scale of least
output error. No integer product takes such codes as they are; the row says what they would gain.

    python -m tools.measure.ranges REFERENCE_FOLDER [--bits 4]
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from qvit_deploy.formats.integer import Int
from qvit_deploy.pipeline.analysis import analyse
from qvit_deploy.pipeline.inputs import open_inputs
from qvit_deploy.progress import Stopwatch
from qvit_deploy.quantize.calibration import Calibration
from qvit_deploy.quantize.ranges.clip import FRACTIONS
from qvit_deploy.quantize.scoring.losses import ROWS
from qvit_deploy.recipe import Recipe
from tools.measure.reference import MODEL, reference_options

KINDS = ("qkv", "proj", "fc1", "fc2")
CHOICES: dict[str, dict[str, Any]] = {
    "as it is": {"fold": False, "fold_heads": False, "equalize": False},
    "fold": {"fold": True, "fold_heads": False, "equalize": False},
    "fold, fold_heads": {"fold": True, "fold_heads": True, "equalize": False},
    "fold, fold_heads, equalize": {"fold": True, "fold_heads": True, "equalize": True},
}
TWIN_AFTER = "fold, fold_heads"


def twin_ranges(rows: Tensor, weights: Tensor, importance: Tensor, bits: int) -> Tensor:
    """Quantizes `rows`, float32 [rows, channels], on the two ranges of least error, weighted as `activation_scale`."""
    steps = 2 ** (bits - 1) - 1
    quantized = torch.zeros_like(rows)
    for side in (rows.clamp(max=0), rows.clamp(min=0)):
        scales = [side.abs().max() * f / steps for f in FRACTIONS]
        candidates = [(side / s).round_().clamp_(-steps, steps).mul_(s) for s in scales]
        losses = torch.stack([(weights @ (c - side).square()) @ importance for c in candidates])
        quantized += candidates[int(losses.argmin())]
    return quantized


def twin_errors(calibration: Calibration, bits: int) -> dict[str, float]:
    """Returns by site the relative output error with twin ranges, for the sites that read the output of GELU."""
    errors = {}
    for site in calibration.sites:
        if site.role == "post_gelu" and site.kind == "linear":
            observed, weight = calibration.observations[site.input], calibration.weights[site.name]
            rows = observed.rows[:ROWS]
            error = twin_ranges(rows, observed.weights[:ROWS], weight.square().sum(1), bits) - rows
            output = rows @ weight
            power = (output - output.mean(0)).square().sum()
            errors[site.name] = float((error @ weight).square().sum() / power)
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    arguments = parser.parse_args()
    table = Table("recipe", *(f"{kind}, dB" for kind in KINDS))
    for label, fields in CHOICES.items():
        recipe = Recipe.load(None, uniform=f"w8a{arguments.bits}", score="uniform", row_importance="none", **fields)
        watch = Stopwatch(None)
        inputs = open_inputs(MODEL, reference_options(arguments.reference), recipe, watch)
        analysis = analyse(inputs, [recipe], watch)
        shares = analysis.table(recipe).errors  # of score "uniform": relative errors, each divided by their number
        errors = {n: e.activation[Int(arguments.bits)] * len(shares) for n, e in shares.items()}
        table.add_row(label, *_cells(errors))
        if label == TWIN_AFTER:
            table.add_row(f"{label}, twin ranges", *_cells(twin_errors(analysis.calibration, arguments.bits)))
    Console().print(table)


def _cells(errors: Mapping[str, float]) -> list[str]:
    kinds = [[e for n, e in errors.items() if n.endswith(f".{kind}")] for kind in KINDS]
    return [f"{statistics.mean(-10 * math.log10(e) for e in values):.1f}" if values else "" for values in kinds]


if __name__ == "__main__":
    main()
