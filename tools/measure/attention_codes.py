"""Measures the error of attention by the codes of its operands, on the DINOv2 reference; prints two tables.

One operand is quantized at a time. Grids are chosen on 32 calibration images, errors measured on 64 others; test images
are not used. An error is ||o' - o|| / ||o|| with o = softmax(q k) v of all heads, averaged over the 12 blocks.

    python -m tools.measure.attention_codes REFERENCE_FOLDER
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from qvit_deploy.calibrate.observe import Observation, observe, site_tensors
from qvit_deploy.calibrate.products import ProductSample, observe_products
from qvit_deploy.data.images import open_images
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.format import Format
from qvit_deploy.formats.grids.grid import Grid
from qvit_deploy.formats.integer import Int
from qvit_deploy.frontend import load_model
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import IMAGE
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.quantize.ranges.activations import ActivationGrid
from qvit_deploy.quantize.ranges.attention import operand_grid, softmax_grid
from qvit_deploy.quantize.ranges.clip import activation_scale
from qvit_deploy.recipe import Granularity, SoftmaxCodes
from tools.measure.reference import MODEL, PREPROCESS

FORMATS = (Int(4), Int(6), Int(8))
CHOSEN, MEASURED = 32, 64
KINDS: tuple[SoftmaxCodes, ...] = ("uniform", "log2", "log-sqrt2", "levels", "auto")
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "head")

Operand = Literal["q", "k", "p", "v"]
Choice = Callable[[ProductSample, Observation, Format], Grid]


def signed_grid(_: ProductSample, observed: Observation, format: Format) -> Grid:
    """Returns the symmetric grid of least squared error, as for any activation, whatever the other operand."""
    importance = torch.ones(observed.rows.shape[1])
    scale = activation_scale(observed.rows, observed.weights, importance, observed.absmax, format)
    return ActivationGrid(format, float(scale))


def softmax_choices() -> Iterator[tuple[str, Choice]]:
    """Yields (label, choice of a grid) of every kind of codes for probabilities."""
    yield "signed, as any activation", signed_grid
    for rows in (False, True):
        for kind in KINDS:
            label = f"{kind}, rows normalized" if rows else kind
            yield label, lambda s, _, b, k=kind, r=rows: softmax_grid(s, b, k, r)  # type: ignore[misc]


def operand_choices(is_left: bool) -> Iterator[tuple[str, Choice]]:
    """Yields (label, choice of a grid) of every granularity for query, key or values."""
    yield "tensor, as any activation", signed_grid
    for granularity in GRANULARITIES:
        yield granularity, lambda s, _, b, g=granularity: operand_grid(s, is_left, b, g)  # type: ignore[misc]


class Reference:
    """The float model's attention, on the images that grids are chosen by and on those that errors are measured on."""

    def __init__(self, folder: Path) -> None:
        graph = load_model(MODEL, checkpoint=folder / "dinov2_vits14_fmnist.safetensors").graph
        products = [s for s in find_sites(graph) if s.second is not None]
        executor, pixels = Executor(graph), self.pixels(folder / "fashion_mnist_dev.npz")
        chosen = pixels[:CHOSEN].split(8)
        self.observations = observe(
            executor, [Examples.images(b) for b in chosen], site_tensors(products), CHOSEN, 0, {}, lambda _: None
        )
        self.samples = observe_products(executor, [Examples.images(b) for b in chosen], products, CHOSEN, 0)
        self.blocks = [pair for pair in pairwise(products) if pair[0].kind == "matmul_qk"]
        with torch.no_grad():
            batches = [
                executor.run(Examples.images(batch), fetch=list(self.observations))
                for batch in pixels[CHOSEN:].split(8)
            ]
        self.tensors = {name: torch.cat([batch[name] for batch in batches]) for name in self.observations}

    @staticmethod
    def pixels(data: Path) -> torch.Tensor:
        """Returns calibration images, float32 [CHOSEN + MEASURED, 3, 112, 112]."""
        with np.load(data) as arrays, tempfile.TemporaryDirectory() as folder:
            order = np.random.default_rng(0).permutation(len(arrays["calib_images"]))[: CHOSEN + MEASURED]
            path = Path(folder) / "images.npz"
            np.savez(path, images=arrays["calib_images"][order])
            images = open_images(str(path), PREPROCESS, limit=CHOSEN + MEASURED, seed=0, skip_bad=False, minimum=2)
            return torch.from_numpy(np.concatenate([batch.arrays[IMAGE] for batch in images.batches(8)]))

    def error(self, operand: Operand, choice: Choice, format: Format) -> float:
        """Returns the mean over the blocks of the relative error with one operand quantized."""
        errors = []
        for scores, mixing in self.blocks:
            names = dict(zip("qkpv", (scores.input, scores.second, mixing.input, mixing.second), strict=True))
            name = names[operand]
            assert name is not None
            site = scores if operand in "qk" else mixing
            grid = choice(self.samples[site.name], self.observations[name], format)
            tensors = {k: self.tensors[n] for k, n in names.items() if n is not None}
            exact = tensors["p"] @ tensors["v"]
            tensors[operand] = grid.apply(tensors[operand]) - grid.shift
            p = torch.softmax(tensors["q"] @ tensors["k"], -1) if operand in "qk" else tensors["p"]
            errors.append(float((p @ tensors["v"] - exact).norm() / exact.norm()))
        return sum(errors) / len(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    reference = Reference(parser.parse_args().reference)
    console = Console(width=120)
    columns = [f"{format.bits} bits" for format in FORMATS]

    table = Table("probabilities: codes", *columns)
    for label, choice in softmax_choices():
        table.add_row(label, *(f"{reference.error('p', choice, format):.4f}" for format in FORMATS))
    console.print(table)

    table = Table("operand", "scales", *columns)
    operands: tuple[Operand, ...] = ("q", "k", "v")
    for operand in operands:
        for label, choice in operand_choices(operand == "q"):
            table.add_row(operand, label, *(f"{reference.error(operand, choice, format):.4f}" for format in FORMATS))
    console.print(table)


if __name__ == "__main__":
    main()
