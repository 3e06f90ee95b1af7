"""Shows pairs of clean and corrupt images and measures their effect on the demo models' decisions (docs/pairs.md).

Draws a sheet of pairs of every kind, and prints per model and kind, over 100 pairs of Fashion-MNIST test images: the
share of tokens that change, of decisions that change, and by how much the logit of the decision falls.

    python -m tools.measure.pairs [--sheet docs/images/pairs.png] [--pairs 100]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table

from qvit_deploy.data.images import open_images
from qvit_deploy.data.pairs.make import EDITS, Edit, ImagePair, make_pairs
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import load_model
from qvit_deploy.graph.examples import Examples

PATCHES = {"vit": 4, "deit": 4, "swin": 2}
DATA = "demo:fashion-mnist"
SEED = 0
SHOWN = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sheet", type=Path, default=Path("docs/images/pairs.png"))
    parser.add_argument("--pairs", type=int, default=100)
    arguments = parser.parse_args()

    table = Table("model", "kind", "tokens changed", "decisions changed", "fall of the logit")
    for model, patch in PATCHES.items():
        source = load_model(f"demo:{model}")
        preprocess = Preprocess.model_validate(source.preprocess)
        images = open_images(DATA, preprocess, split="test")
        executor = Executor(source.graph)
        by_kind = {kind: make_pairs(images, kind, patch, arguments.pairs, SEED) for kind in EDITS}
        for kind, pairs in by_kind.items():
            clean, corrupt = _logits(executor, [p.clean for p in pairs]), _logits(executor, [p.corrupt for p in pairs])
            decision = clean.argmax(1)
            rows = np.arange(len(pairs))
            table.add_row(
                model,
                kind,
                f"{np.mean([p.changed_tokens.mean() for p in pairs]):.0%}",
                f"{np.mean(decision != corrupt.argmax(1)):.0%}",
                f"{np.mean(clean[rows, decision] - corrupt[rows, decision]):.2f}",
            )
        if model == "vit":
            _draw_sheet(by_kind, preprocess, patch, arguments.sheet)
    console = Console(width=90)
    console.print(table)
    console.print(f"n={arguments.pairs} pairs of {DATA} test images each; sheet: {arguments.sheet}")


def _logits(executor: Executor, images: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        (logits,) = executor.run(Examples.images(torch.from_numpy(np.stack(images)))).values()
    return np.asarray(logits)


def _draw_sheet(by_kind: Mapping[Edit, tuple[ImagePair, ...]], preprocess: Preprocess, patch: int, path: Path) -> None:
    """Draws one row per kind: clean and corrupt images of the first pairs, with the changed tokens outlined."""
    figure = Figure(dpi=90, figsize=(8, 0.95 * len(by_kind) + 0.3))
    widths = [1.0, 1.0, 0.25] * SHOWN
    axes = figure.subplots(
        len(by_kind),
        len(widths),
        width_ratios=widths,
        gridspec_kw={"left": 0.14, "right": 0.995, "top": 0.95, "bottom": 0.01, "wspace": 0.06, "hspace": 0.08},
    )
    for row, (kind, pairs) in zip(axes, by_kind.items(), strict=True):
        row[0].text(-0.12, 0.5, kind, ha="right", va="center", transform=row[0].transAxes, fontsize=9)
        for axis in row:
            axis.axis("off")
        for k, pair in enumerate(pairs[:SHOWN]):
            _show(row[3 * k], pair.clean, preprocess)
            _show(row[3 * k + 1], pair.corrupt, preprocess)
            _outline(row[3 * k + 1], pair.changed_tokens, patch)
    for k in range(SHOWN):
        axes[0][3 * k].set_title("clean", fontsize=8, pad=3)
        axes[0][3 * k + 1].set_title("corrupt", fontsize=8, pad=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(48).save(path, optimize=True)


def _outline(axis: Axes, tokens: np.ndarray, patch: int) -> None:
    """Draws the border between the tokens that changed and those that did not."""
    padded = np.pad(tokens, 1)
    style: dict[str, Any] = {"colors": "#ff9500", "linewidth": 1.2, "clip_on": False}
    for r, c in np.argwhere(np.diff(padded, axis=0)[:, 1:-1]) * patch - 0.5:
        axis.hlines(r, c, c + patch, **style)
    for r, c in np.argwhere(np.diff(padded, axis=1)[1:-1]) * patch - 0.5:
        axis.vlines(c, r, r + patch, **style)


def _show(axis: Axes, image: np.ndarray, preprocess: Preprocess) -> None:
    mean, std = (np.array(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    axis.imshow((image * std + mean).transpose(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1)


if __name__ == "__main__":
    main()
