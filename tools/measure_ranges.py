"""What the exact changes of the float graph are worth: output error of quantized activations, with and without them.

For the DINOv2 reference, per kind of layer and at one width: the mean over the blocks of 10 log10 (sum y^2 / sum
(y' - y)^2), y the layer's output without its mean and y' the output when only its input is quantized, on sampled
calibration rows.

`fold_heads` changes what query, key and value channels are, so its row of qkv compares with nothing; what it is worth
shows at proj and in the attention products (`measure_attention_codes.py`).

    python tools/measure_ranges.py REFERENCE_FOLDER [--bits 4]
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

from measure_reference import MODEL, PREPROCESS
from rich.console import Console
from rich.table import Table

from qvit_deploy.inputs import open_inputs
from qvit_deploy.pipeline import analyse
from qvit_deploy.progress import Stopwatch
from qvit_deploy.quantize.losses import site_errors
from qvit_deploy.recipe import Recipe

KINDS = ("qkv", "proj", "fc1", "fc2")
CHOICES: dict[str, dict[str, Any]] = {
    "as it is": {"fold": False, "fold_heads": False, "equalize": False},
    "fold": {"fold": True, "fold_heads": False, "equalize": False},
    "fold, fold_heads": {"fold": True, "fold_heads": True, "equalize": False},
    "fold, fold_heads, equalize": {"fold": True, "fold_heads": True, "equalize": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--bits", type=int, default=4)
    arguments = parser.parse_args()
    table = Table("recipe", *(f"{kind}, dB" for kind in KINDS))
    for label, fields in CHOICES.items():
        recipe = Recipe.load(None, uniform=f"w8a{arguments.bits}", score="uniform", row_importance="none", **fields)
        watch = Stopwatch(None)
        inputs = open_inputs(
            MODEL,
            str(arguments.reference / "fashion_mnist_dev.npz"),
            recipe,
            checkpoint=arguments.reference / "dinov2_vits14_fmnist.safetensors",
            pretrained=False,
            preprocess=PREPROCESS,
            skip_bad_images=False,
            watch=watch,
        )
        errors = site_errors(analyse(inputs, [recipe], watch).calibration)
        found = {
            kind: [e.activation[arguments.bits] for n, e in errors.items() if n.endswith(f".{kind}")] for kind in KINDS
        }
        table.add_row(label, *(f"{statistics.mean(-10 * math.log10(e) for e in found[kind]):.1f}" for kind in KINDS))
    Console().print(table)


if __name__ == "__main__":
    main()
