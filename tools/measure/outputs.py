"""Measures what counting every output does for models with several: SQNR of each output at equal mean bits.

    python -m tools.measure.outputs [--mean-bits 6] [--seeds 3] [--epochs 50]

Two models. The ViT of `tools.train.two_heads` is trained first; each of its outputs is compared with what it gets when
the model is compiled with that output only. A Swin with a feature pyramid has random weights. Both are compiled by the
objective of all outputs, and by that of the first output alone; SQNR is measured on the package's 1,000 test images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
import timm
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.target import FLOAT, file_of
from qvit_deploy.tasks.outputs import PlainOutputs
from qvit_deploy.tasks.registry import TASKS
from qvit_deploy.tasks.task import Objective, Outputs
from tools.train.reference import MEAN, STD
from tools.train.two_heads import quality, shipped, train

DATA = "demo:fashion-mnist"


class FirstOutput(PlainOutputs):
    """All outputs are measured, and the objective looks at the first: the sum of the largest values along axis 1."""

    name = "first-output"

    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        """Returns the objective of the first output."""

        def objective(outputs: Outputs) -> Tensor:
            largest = next(iter(outputs.values())).amax(1)
            return largest.reshape(len(largest), -1).sum(1)

        return objective


class Only(nn.Module):
    """One of the outputs of a model."""

    def __init__(self, model: nn.Module, index: int) -> None:
        super().__init__()
        self.model, self.index = model, index

    def forward(self, images: Tensor) -> Tensor:
        chosen: Tensor = self.model(images)[self.index]
        return chosen


class SwinPyramid(nn.Module):
    """Maps of 32 channels at strides 4 to 32, of images float32 [batch, 1, 64, 64] (Lin et al., arXiv 1612.03144)."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.trunk: nn.Module = timm.create_model(
            "swin_tiny_patch4_window7_224", features_only=True, img_size=64, in_chans=1, window_size=4, embed_dim=32,
            depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8),
        )  # fmt: skip
        self.lateral = nn.ModuleList(nn.Conv2d(32 * 2**stage, channels, 1) for stage in range(4))
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in self.lateral)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = [conv(x.permute(0, 3, 1, 2)) for conv, x in zip(self.lateral, self.trunk(images), strict=True)]
        for finer in range(len(maps) - 2, -1, -1):
            maps[finer] = maps[finer] + F.interpolate(maps[finer + 1], scale_factor=2.0, mode="nearest")
        return tuple(conv(x) for conv, x in zip(self.smooth, maps, strict=True))


def sqnr(model: nn.Module, side: int, recipe: Recipe) -> list[float]:
    """Compiles a model of [batch, 1, side, side] and returns the SQNR of its outputs, in order, on the test images."""
    preprocess = Preprocess(input_size=(1, side, side), mean=(MEAN,), std=(STD,), interpolation="bicubic", color="grey")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        compile(model, out, calib=DATA, recipe=recipe, preprocess=preprocess)
        found = evaluate(out, DATA, labels="none").sqnr_by_output
        outputs = onnx.load(out / file_of(FLOAT)).graph.output
    assert found is not None
    return [found[output.name] for output in outputs]


def recipes(mean_bits: float, seed: int) -> tuple[Recipe, Recipe]:
    """Returns the recipe whose objective is that of all outputs, and that of the first."""
    every, first = (
        Recipe.load(None, mean_bits=mean_bits, seed=seed, task=task) for task in ("outputs", FirstOutput.name)
    )
    return every, first


def two_heads(mean_bits: float, seed: int, epochs: int) -> tuple[list[float], list[float], list[float]]:
    """Returns SQNR of class and mask: of the model of both, of the models of one, of both by the first's objective."""
    model = train(*shipped("calib"), epochs, seed)
    console.print("top-1 {:.1%}, mask IoU {:.1%}".format(*quality(model, *shipped("test"))))
    every, first = recipes(mean_bits, seed)
    alone = [sqnr(Only(model, index), 28, every.model_copy(update={"task": None}))[0] for index in (0, 1)]
    return sqnr(model, 28, every), alone, sqnr(model, 28, first)


def swin_pyramid(mean_bits: float, seed: int) -> tuple[list[float], list[float]]:
    """Returns SQNR of the four maps by the objective of all outputs, and by that of the first."""
    torch.manual_seed(seed)
    model = SwinPyramid().eval()
    every, first = recipes(mean_bits, seed)
    return sqnr(model, 64, every), sqnr(model, 64, first)


console = Console(width=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--mean-bits", type=float, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    arguments = parser.parse_args()
    TASKS[FirstOutput.name] = FirstOutput()
    table = Table("model", "seed", "objective", "SQNR dB by output", "worst")

    def row(model: str, seed: int, objective: str, values: Sequence[float]) -> None:
        table.add_row(model, str(seed), objective, ", ".join(f"{v:.1f}" for v in values), f"{min(values):.1f}")

    for seed in range(arguments.seeds):
        together, alone, by_first = two_heads(arguments.mean_bits, seed, arguments.epochs)
        row("two heads", seed, "each compiled alone", alone)
        row("two heads", seed, "all outputs", together)
        row("two heads", seed, "first output", by_first)
        every, first = swin_pyramid(arguments.mean_bits, seed)
        row("Swin pyramid", seed, "all outputs", every)
        row("Swin pyramid", seed, "first output", first)
    console.print(table)


if __name__ == "__main__":
    main()
