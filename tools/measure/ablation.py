"""Measures what every part of quantization adds to accuracy, on the DINOv2 reference with parts left out.

All linear layers and both attention products quantized, first and last layer at 8 bits, per-tensor activations. SQNR
and agreement with the float model are measured on 256 calibration images that calibration did not use, and are the
basis of choices; top-1 on the 1,000 test images is printed for information. `tools/measure/reference.py` says what the
reference is.

    python -m tools.measure.ablation REFERENCE_FOLDER [--uniform w4a4] [--row NAME ...]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from qvit_deploy.cli.console import Bars
from qvit_deploy.pipeline.sweep import Job, run
from qvit_deploy.recipe import EFFORTS, Recipe
from tools.measure.reference import MODEL, reference_options

NOTHING: dict[str, Any] = {
    "fold": False,
    "fold_heads": False,
    "equalize": False,
    "row_importance": "none",
    "softmax": "uniform",
    "softmax_rows": False,
    "compensate": "none",
}
ROWS: dict[str, dict[str, Any]] = {
    "rounding to nearest": NOTHING,
    "and fold": {**NOTHING, "fold": True},
    "and fold_heads, equalize": {**NOTHING, "fold": True, "fold_heads": True, "equalize": True},
    "effort fast": dict(EFFORTS["fast"]),
    "effort default": {},
    "without fold": {"fold": False},
    "without fold_heads": {"fold_heads": False},
    "without equalize": {"equalize": False},
    "without row_importance": {"row_importance": "none"},
    "softmax uniform": {"softmax": "uniform"},
    "without softmax_rows": {"softmax_rows": False},
    "attention per head": {"attention_granularity": "head"},
    "compensate none": {"compensate": "none"},
    "compensate bias": {"compensate": "bias"},
    "effort high": dict(EFFORTS["high"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("--uniform", default="w4a4")
    parser.add_argument("--row", action="append", choices=list(ROWS), help="only these")
    arguments = parser.parse_args()
    options = reference_options(arguments.reference)
    table = Table(f"{arguments.uniform} with", "SQNR dB", "agreement", "top-1", "test agreement", "s")
    for name in arguments.row or ROWS:
        recipe = Recipe.load(None, **{"uniform": arguments.uniform, "attention": "integer", **ROWS[name]})
        job = Job(MODEL, (recipe,), options, data=options.calib)
        start = time.perf_counter()
        with Bars() as bars:
            (row,) = run(job, bars)
        seconds = time.perf_counter() - start
        assert row.sqnr_db is not None and row.top1 is not None and row.test_agreement is not None
        table.add_row(
            name, f"{row.sqnr_db:.1f}", f"{row.agreement:.1%}", f"{row.top1:.1%}", f"{row.test_agreement:.1%}",
            f"{seconds:.0f}",
        )  # fmt: skip
        line = {"row": name, "sqnr_db": row.sqnr_db, "agreement": row.agreement, "top1": row.top1}
        print(json.dumps({**line, "test_agreement": row.test_agreement}), flush=True)
    console = Console(width=110)
    console.print(table)
    console.print(
        f"SQNR and agreement: n={row.images} held-out calibration images; top-1: n={row.test_images} test images, "
        f"float {row.float_top1:.1%}; seconds include the measuring"
    )


if __name__ == "__main__":
    main()
