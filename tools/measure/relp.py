"""Measures how well gradient, RelP and other rule sets agree with exact patching: Pearson over pairs of images.

It takes three graphs of each model (float, w8a8, and mixed widths of mean 4), composites of two test images of
different classes, the logit difference of the two predicted classes, and denoising. Exact maps are stored in the work
folder, so the same command goes on after an interruption.

    python -m tools.measure.relp WORK_FOLDER [--reference FOLDER] [--model demo:vit ...] [--pairs 20]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from qvit_deploy.cli.console import Bars
from qvit_deploy.commands.relp import patch_size
from qvit_deploy.data.images import open_images
from qvit_deploy.data.pairs.make import ImagePair, make_pairs
from qvit_deploy.patching.agreement import Summary
from qvit_deploy.patching.components import KINDS, Kind
from qvit_deploy.pipeline.compile import compile_bundle
from qvit_deploy.pipeline.exact_comparison import compare_with_exact
from qvit_deploy.pipeline.exact_maps import ExactMaps, exact_maps
from qvit_deploy.pipeline.explain import Explanation, explain
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.model_files import ModelFile, read_model
from qvit_deploy.recipe import Recipe
from tools.measure.reference import MODEL, reference_options

DEMOS = ("demo:vit", "demo:deit", "demo:swin")
RULES = ("relp", "relp-ah", "attnlrp")  # the gradient comes with each as a baseline
GRAPHS: dict[str, tuple[dict[str, Any], str]] = {
    "float": ({"uniform": "w8a8"}, "float"),
    "w8a8": ({"uniform": "w8a8"}, "onnxruntime"),
    "mean 4": ({"mean_bits": 4, "bits": (3, 4, 5, 6, 8)}, "onnxruntime"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--reference", type=Path, help="folder of the DINOv2 reference; it is left out without")
    parser.add_argument("--model", action="append", choices=DEMOS, help="only these")
    parser.add_argument("--graph", action="append", choices=list(GRAPHS), help="only these")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    for model in selected_models(arguments.model, arguments.reference):
        for graph in arguments.graph or GRAPHS:
            file, data = compiled(model, graph, arguments.work, arguments.reference)
            pairs, truth = patched_pairs(file, data, arguments.work, arguments.pairs, arguments.processes)
            explanations = {rules: explain(file, pairs, rules=rules, exact=truth) for rules in RULES}
            agreement = {rules: compare_with_exact(file, e).agreement for rules, e in explanations.items()}
            rows += _rows("DINOv2" if model == MODEL else model, graph, explanations, agreement)
            for row in rows[-4:]:
                print(json.dumps(row), flush=True)
    Console(width=120).print(_table(rows))


def selected_models(names: Sequence[str] | None, reference: Path | None) -> tuple[str, ...]:
    """Returns the demo models named, and the reference if its folder is given; all demo models if neither is."""
    demos = () if reference and not names else tuple(names or DEMOS)
    return (*demos, *((MODEL,) if reference else ()))


def compiled(model: str, graph: str, work: Path, reference: Path | None) -> tuple[ModelFile, str]:
    """Compiles a model unless `work` has its bundle; returns (the file of that graph, DATA)."""
    choices, target = GRAPHS[graph]
    options = InputOptions("demo:fashion-mnist")
    if model == MODEL:
        assert reference is not None
        options = reference_options(reference)
    name = "dinov2" if model == MODEL else model.replace(":", "-")
    out = work / f"{name}-{'-'.join(map(str, choices.values())).replace(' ', '')}"
    if not out.exists():
        with Bars() as bars:
            compile_bundle(model, out, options, Recipe.load(None, **choices), progress=bars)
    assert options.calib is not None
    return read_model(out, target, None), options.calib


def patched_pairs(
    file: ModelFile, data: str, work: Path, count: int, processes: int
) -> tuple[tuple[ImagePair, ...], ExactMaps]:
    """Makes `count` composites of test images and their exact maps, which are stored in `work`."""
    images = open_images(data, file.prepared, split="test")
    pairs = make_pairs(images, "composite", patch_size(file), count, seed=0)
    with Bars() as bars, bars.stage("exact", len(pairs)) as advance:
        truth = exact_maps(
            file, pairs, metric="logit-diff", direction="denoising", folder=work / "exact", advance=advance,
            processes=processes,
        )  # fmt: skip
    return pairs, truth


def _rows(
    model: str,
    graph: str,
    explanations: dict[str, Explanation],
    agreement: Mapping[str, Mapping[Kind, Mapping[str, Summary]]],
) -> list[dict[str, Any]]:
    rows = []
    for kind in KINDS:
        row: dict[str, Any] = {"model": model, "graph": graph, "kind": kind}
        for rules in ("gradient", *RULES, "|difference|"):
            mean = agreement[rules if rules in RULES else "relp"][kind][rules].metrics["pearson"]
            row[rules] = None if mean.mean is None else round(mean.mean, 3)
        row["relp - gradient"] = _difference(explanations["relp"], kind)
        rows.append(row)
    return rows


def _difference(explanation: Explanation, kind: str) -> list[float]:
    """Returns the mean difference of the Pearson correlations over pairs, and its 95 % interval (Student's t)."""
    components = [c for c in explanation.components if c.kind == kind]
    differences = []
    for pair in explanation.pairs:
        assert pair.truth is not None
        reached = np.concatenate([pair.reached[c] for c in components])
        truth = np.concatenate([pair.truth.exact[c] for c in components])[reached]
        relp, gradient = (
            float(np.corrcoef(np.concatenate([m[c] for c in components])[reached], truth)[0, 1])
            for m in (pair.effects, pair.truth.gradient)
        )
        differences.append(relp - gradient)
    mean, half = float(np.mean(differences)), _half_width(differences)
    return [round(mean, 3), round(mean - half, 3), round(mean + half, 3)]


def _half_width(values: Sequence[float]) -> float:
    if len(values) < 2:
        return float("nan")
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table("model", "graph", "component", "gradient", *RULES, "|difference|", "relp - gradient")
    for row in rows:
        mean, low, high = row["relp - gradient"]
        values = ["" if row[r] is None else f"{row[r]:.3f}" for r in ("gradient", *RULES, "|difference|")]
        table.add_row(row["model"], row["graph"], row["kind"], *values, f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    return table


if __name__ == "__main__":
    main()
