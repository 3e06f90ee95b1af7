"""Error of attention products by the codes of their operands, on the DINOv2 reference; prints two tables.

One operand is quantized at a time. Grids are chosen on 8 of 32 calibration images (ranges see all 32), errors measured
on 64 other calibration images; test images are not touched. An error is ||output' - output|| / ||output||, of scores
without their mean along the keys, which the softmax ignores, averaged over the 12 blocks.

    python tools/measure_attention_codes.py REFERENCE_FOLDER
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measure_reference import MODEL, PREPROCESS
from rich.console import Console
from rich.table import Table

from qvit_deploy.calibrate.observe import Observation, observe, site_tensors
from qvit_deploy.calibrate.products import IMAGES, ProductSample, observe_products
from qvit_deploy.data.images import open_images
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import load_model
from qvit_deploy.graph.sites import Site, find_sites
from qvit_deploy.quantize.activations import ActivationGrid
from qvit_deploy.quantize.attention import operand_grid, softmax_grid
from qvit_deploy.quantize.clip import activation_scale
from qvit_deploy.quantize.grid import Grid
from qvit_deploy.recipe import Granularity, SoftmaxCodes

BITS = (4, 6, 8)
CHOSEN, MEASURED = 32, 64
KINDS: tuple[SoftmaxCodes, ...] = ("uniform", "log2", "log-sqrt2", "levels", "auto")
GRANULARITIES: tuple[Granularity, ...] = ("tensor", "head")

Choice = Callable[[ProductSample, Observation, int], Grid]


def signed_grid(seen: Observation, bits: int) -> Grid:
    """The symmetric grid of least squared error, whatever the other operand."""
    scale = activation_scale(seen.rows, torch.ones(seen.rows.shape[1]), seen.absmax, bits)
    return ActivationGrid(bits, float(scale), 0.0)


def softmax_choices() -> Iterator[tuple[str, Choice]]:
    yield "signed, as any activation", lambda _, seen, bits: signed_grid(seen, bits)
    for rows in (False, True):
        for kind in KINDS:
            label = f"{kind}, rows normalized" if rows else kind
            yield label, lambda s, seen, b, k=kind, r=rows: softmax_grid(s, seen.high, b, k, r)  # type: ignore[misc]


def operand_choices(is_left: bool) -> Iterator[tuple[str, Choice]]:
    yield "tensor, own squared error", lambda _, seen, bits: signed_grid(seen, bits)
    for granularity in GRANULARITIES:
        yield granularity, lambda s, seen, b, g=granularity: operand_grid(s, is_left, seen.absmax, b, g)  # type: ignore[misc]


class Reference:
    """What the float model's attention looks like on the images to choose grids by and on those to measure on."""

    def __init__(self, folder: Path) -> None:
        checkpoint = folder / "dinov2_vits14_fmnist.safetensors"
        graph = load_model(MODEL, checkpoint=checkpoint).graph
        self.products = [s for s in find_sites(graph) if s.second is not None]
        pixels = self.pixels(folder / "fashion_mnist_dev.npz")
        executor = Executor(graph)
        chosen, measured = pixels[:CHOSEN].split(8), pixels[CHOSEN:].split(8)
        self.seen = observe(executor, chosen, site_tensors(self.products), CHOSEN, 0, lambda _: None)
        self.sample = observe_products(executor, pixels[:IMAGES].split(8), self.products, 0)
        self.held_out = observe_products(executor, measured, self.products, 0)

    @staticmethod
    def pixels(data: Path) -> torch.Tensor:
        """[CHOSEN + MEASURED, 3, 112, 112] drawn from the calibration images, the test images left out of the file."""
        with np.load(data) as arrays, tempfile.TemporaryDirectory() as folder:
            order = np.random.default_rng(0).permutation(len(arrays["calib_images"]))[: CHOSEN + MEASURED]
            path = Path(folder) / "images.npz"
            np.savez(path, images=arrays["calib_images"][order])
            images = open_images(str(path), PREPROCESS, limit=CHOSEN + MEASURED, seed=0, skip_bad=False, minimum=2)
            return torch.from_numpy(np.concatenate([batch for batch, _ in images.batches(8)]))

    def error(self, kind: str, is_left: bool, choice: Choice, bits: int) -> float:
        """Mean over the blocks of the relative error on the held-out images."""
        errors = [self._error(site, is_left, choice, bits) for site in self.products if site.kind == kind]
        return sum(errors) / len(errors)

    def _error(self, site: Site, is_left: bool, choice: Choice, bits: int) -> float:
        name = site.input if is_left else site.second
        assert name is not None
        grid, held_out = choice(self.sample[site.name], self.seen[name], bits), self.held_out[site.name]
        x = held_out.left if is_left else held_out.right
        moved = grid.apply(x) - grid.shift
        squared = held_out.left_error(moved) if is_left else held_out.right_error(moved)
        return float(squared.sum() / held_out.power().sum()) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reference", type=Path)
    reference = Reference(parser.parse_args().reference)
    console = Console(width=120)
    columns = [f"{bits} bits" for bits in BITS]

    table = Table("probabilities: codes", *columns, title="Error of the AV product")
    for label, choice in softmax_choices():
        table.add_row(label, *(f"{reference.error('matmul_av', True, choice, b):.4f}" for b in BITS))
    console.print(table)

    table = Table("operand", "scales", *columns, title="Error of the QK product (q, k) and of the AV product (v)")
    for operand, kind, is_left in (("q", "matmul_qk", True), ("k", "matmul_qk", False), ("v", "matmul_av", False)):
        for label, choice in operand_choices(is_left):
            table.add_row(operand, label, *(f"{reference.error(kind, is_left, choice, b):.4f}" for b in BITS))
    console.print(table)


if __name__ == "__main__":
    main()
