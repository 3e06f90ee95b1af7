"""Measures what counting every output does for models with several: SQNR of each output at equal mean bits.

    python -m tools.measure.outputs [--model two-heads,pyramid,random-pyramid] [--objective "all outputs",...]
        [--mean-bits 6] [--seeds 3] [--epochs 50]

Three models. The ViT of `tools.train.two_heads` is trained first; each of its outputs is compared with what it gets
when the model is compiled with that output only. A feature pyramid on the trunk of `demo:swin` is trained by
`tools.train.pyramid`. A Swin with a pyramid of four maps has random weights. All are compiled by the objective of all
outputs, by two that look at the first output alone, and by the sum of all that comes out; SQNR is measured on the
package's 1,000 test images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
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
from tools.train.pyramid import train as pyramid_trained
from tools.train.reference import MEAN, STD
from tools.train.two_heads import quality, shipped
from tools.train.two_heads import train as two_heads_trained

DATA, SIDE = "demo:fashion-mnist", 28


class FirstOutput(PlainOutputs):
    """All outputs are measured, and the objective looks at the first: the sum of the largest values along axis 1."""

    name = "first-output"

    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        """Returns the objective of the first output."""

        def objective(outputs: Outputs) -> Tensor:
            largest = next(iter(outputs.values())).amax(1)
            return largest.reshape(len(largest), -1).sum(1)

        return objective


class LargestElement(PlainOutputs):
    """All outputs are measured, and the objective is the largest element of the first, as of a classifier's logits."""

    name = "largest-element"

    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        """Returns the objective of one element."""
        return lambda outputs: next(iter(outputs.values())).flatten(1).amax(1)


class SumOfOutputs(PlainOutputs):
    """All outputs are measured, and the objective is the sum of their elements, as they are."""

    name = "sum-of-outputs"

    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        """Returns the sum of what comes out."""

        def objective(outputs: Outputs) -> Tensor:
            return torch.stack([value.flatten(1).sum(1) for value in outputs.values()]).sum(0)

        return objective


OBJECTIVES = {
    "all outputs": "outputs",
    "first output": FirstOutput.name,
    "largest element": LargestElement.name,
    "sum of outputs": SumOfOutputs.name,
}
"""What a table says -> the task whose objective it is."""


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
        ratios = evaluate(out, DATA, labels="none").sqnr_by_output
        outputs = onnx.load(out / file_of(FLOAT)).graph.output
    assert ratios is not None
    return [ratios[output.name] for output in outputs]


def by_objective(
    model: nn.Module, side: int, mean_bits: float, seed: int, objectives: Iterable[str]
) -> dict[str, list[float]]:
    """Returns objective -> SQNR of the outputs of a model that is compiled by it."""
    return {
        name: sqnr(model, side, Recipe.load(None, mean_bits=mean_bits, seed=seed, task=OBJECTIVES[name]))
        for name in objectives
    }


def two_heads(mean_bits: float, seed: int, epochs: int, objectives: Iterable[str]) -> dict[str, list[float]]:
    """Returns SQNR of class and mask by the objective, and of the models that have one of them."""
    model = two_heads_trained(*shipped("calib"), epochs, seed)
    console.print("top-1 {:.1%}, mask IoU {:.1%}".format(*quality(model, *shipped("test"))))
    recipe = Recipe.load(None, mean_bits=mean_bits, seed=seed)
    alone = [sqnr(Only(model, index), SIDE, recipe)[0] for index in (0, 1)]
    return {"each compiled alone": alone, **by_objective(model, SIDE, mean_bits, seed, objectives)}


def pyramid(mean_bits: float, seed: int, epochs: int, objectives: Iterable[str]) -> dict[str, list[float]]:
    """Returns SQNR of the three maps of a trained pyramid by the objective."""
    return by_objective(pyramid_trained(*shipped("calib"), epochs, seed), SIDE, mean_bits, seed, objectives)


def random_pyramid(mean_bits: float, seed: int, epochs: int, objectives: Iterable[str]) -> dict[str, list[float]]:
    """Returns SQNR of the four maps of a Swin with random weights by the objective."""
    torch.manual_seed(seed)
    return by_objective(SwinPyramid().eval(), 64, mean_bits, seed, objectives)


MODELS = {"two-heads": two_heads, "pyramid": pyramid, "random-pyramid": random_pyramid}

console = Console(width=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=",".join(MODELS))
    parser.add_argument("--objective", default=",".join(OBJECTIVES))
    parser.add_argument("--mean-bits", type=float, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=50)
    arguments = parser.parse_args()
    TASKS.update({task.name: task for task in (FirstOutput(), LargestElement(), SumOfOutputs())})
    objectives = arguments.objective.split(",")
    table = Table("model", "seed", "objective", "SQNR dB by output", "worst")
    for seed in range(arguments.seeds):
        for name in arguments.model.split(","):
            for objective, values in MODELS[name](arguments.mean_bits, seed, arguments.epochs, objectives).items():
                cells = ", ".join(f"{v:.1f}" for v in values), f"{min(values):.1f}"
                print(name, seed, objective, *cells, sep=" | ", flush=True)
                table.add_row(name, str(seed), objective, *cells)
    console.print(table)


if __name__ == "__main__":
    main()
