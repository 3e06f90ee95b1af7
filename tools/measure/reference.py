"""Measures accuracy, compile time and speed of the DINOv2 reference at several widths; prints the README's table.

The reference is a DINOv2 ViT-S/14 with a Fashion-MNIST head: `dinov2_vits14_fmnist.safetensors` and, in the same
folder, `fashion_mnist_dev.npz` (512 calibration, 1,000 test images). Its activations have the outliers of real ViTs.

    python -m tools.measure.reference REFERENCE_FOLDER [--goal uniform=w8a8 --goal mean_bits=5 ...]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.graph.examples import Examples
from qvit_deploy.pipeline.compile import compile_bundle
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.onnxruntime import runtime as target

MODEL = "timm:vit_small_patch14_dinov2?img_size=112&num_classes=10"
PREPROCESS = Preprocess(
    input_size=(3, 112, 112),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    interpolation="bicubic",
    crop_pct=1.0,
    color="grey",
)


def reference_options(folder: Path) -> InputOptions:
    """Returns how the reference in `folder` and its calibration images are read."""
    weights, images = folder / "dinov2_vits14_fmnist.safetensors", folder / "fashion_mnist_dev.npz"
    return InputOptions(str(images), weights, preprocess=PREPROCESS)


BUDGETS = ("uniform=w8a8", "mean_bits=6", "uniform=w6a6", "mean_bits=5", "uniform=w4a4")
GOALS = [
    *BUDGETS,
    *(f"{goal},attention=integer" for goal in BUDGETS),
    # 5 percent more weight bytes and BitOps than uniform=w4a4.
    "max_size_mb=11.39,max_bitops_g=24.81,bits=3/4/5/6/8,attention=integer",
    "uniform=w4a4,attention=integer,distill_epochs=40",
]
"""The rows of the README's table."""


def speedup(baseline: Path, candidate: Path, repeats: int) -> tuple[float, float, float]:
    """Returns (median ms of the baseline, median ms of the candidate, median of the ratios of neighbouring runs).

    Runs batch 1 on one thread, the two files in turn, so that a change of the machine's speed affects both.
    """
    sessions = [target.session(path, threads=1) for path in (baseline, candidate)]
    image = np.random.default_rng(0).standard_normal((1, *PREPROCESS.input_size), dtype=np.float32)
    times: list[list[float]] = [[], []]
    for _ in range(repeats):
        for runner, milliseconds in zip(sessions, times, strict=True):
            start = time.perf_counter()
            target.run(runner, Examples.images(image))
            milliseconds.append(1e3 * (time.perf_counter() - start))
    warm = [milliseconds[repeats // 10 :] for milliseconds in times]
    ratio = statistics.median(a / b for a, b in zip(*warm, strict=True))
    return statistics.median(warm[0]), statistics.median(warm[1]), ratio


def _fields(goal: str) -> dict[str, Any]:
    parts = (part.split("=", 1) for part in goal.split(","))
    return {name: value.split("/") if "/" in value else value for name, value in parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument(
        "--goal",
        action="append",
        help="recipe fields, one compile each: key=value[,key=value], the parts of lists behind /",
    )
    parser.add_argument("--repeats", type=int, default=200, help="timed runs of each file")
    arguments = parser.parse_args()
    goals = arguments.goal or GOALS
    options = reference_options(arguments.reference)

    table = Table("recipe", "mean w/a bits", "MB", "top-1", "float", "agreement", "compile s", "float ms", "ms", "x")
    for goal in goals:
        fields = _fields(goal)
        with tempfile.TemporaryDirectory() as folder:
            recipe = Recipe.load(None, **fields)
            compiled = compile_bundle(MODEL, Path(folder) / "bundle", options, recipe)
            bundle = compiled.bundle
            assert options.calib is not None
            result = evaluate(bundle.root, options.calib)
            files = [bundle.path_of(f"model.{name}.onnx") for name in ("float", "onnxruntime")]
            slow, fast, ratio = speedup(files[0], files[1], arguments.repeats)
        summary, seconds = bundle.manifest.summary, sum(compiled.seconds.values())
        assert result.top1 is not None and result.float_top1 is not None and result.agreement is not None
        table.add_row(
            goal, f"{summary.mean_w_bits:.2f}/{summary.mean_a_bits:.2f}", f"{summary.weight_bytes / 1e6:.1f}",
            f"{result.top1:.1%}", f"{result.float_top1:.1%}", f"{result.agreement:.1%}", f"{seconds:.0f}",
            f"{slow:.1f}", f"{fast:.1f}", f"{ratio:.2f}",
        )  # fmt: skip
        line = {"goal": goal, "n": result.n, "top1": result.top1, "ratio": ratio, "seconds": dict(compiled.seconds)}
        print(json.dumps(line), flush=True)
    console = Console(width=140)
    console.print(table)
    console.print(f"n=1000 test images; batch 1, 1 thread; {platform.processor() or platform.machine()}")


if __name__ == "__main__":
    main()
