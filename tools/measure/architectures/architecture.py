"""What a row of the coverage table is: a small random model, its example inputs and the names of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tools.measure.architectures.weights import scale_to_data

IMAGE = "pixel_values"

_WEIGHT_PICTURES = range(2000, 2032)
"""Seeds of the pictures that weights are scaled on: a batch norm of 2 x 2 maps needs many."""


@dataclass(frozen=True)
class Architecture:
    """One architecture in a small configuration with random weights.

    Attributes:
        name: `library:model`, as the table names it.
        task: what its outputs are, in the words of the table.
        build: makes the model, in evaluation mode; its weights come from torch's seed.
        size: of the image, (channels, height, width); of a video (frames, channels, height, width).
        outputs: names of the fields of the model's result, for models that return a record; empty for models that
            return a tensor or a tuple of tensors.
        ranked: whether the model takes its queries from the pixels' scores, all of them, best first: noise exchanges
            neighbours, so that outputs [1, queries, ...] are to be compared as sets.
        others: further inputs: name -> array of one example, in the order in which the model takes them by keyword.
    """

    name: str
    task: str
    build: Callable[[], nn.Module]
    size: tuple[int, ...] = (3, 64, 64)
    outputs: Sequence[str] = ()
    others: Callable[[], Mapping[str, np.ndarray]] = dict
    image: str = IMAGE
    ranked: bool = False

    def module(self) -> Tensors:
        """Returns the model, its weights scaled to pictures, as a module that takes the image and `others` and returns
        a tuple of tensors."""
        torch.manual_seed(0)
        module = Tensors(self.build(), [self.image, *self.others()], self.outputs).eval()
        examples = [self.inputs(seed) for seed in _WEIGHT_PICTURES]
        batch = [torch.from_numpy(np.concatenate([e[name] for e in examples])) for name in examples[0]]
        scale_to_data(module, lambda: module(*batch))
        return module

    def inputs(self, seed: int) -> dict[str, np.ndarray]:
        """Returns one example: every input [1, ...] by its name, float32 pixels of about unit variance."""
        return {self.image: picture(self.size, seed)[None], **{n: a[None] for n, a in self.others().items()}}


class Tensors(nn.Module):
    """A model whose result, a tensor, a record or nested tuples, is returned as a flat tuple of tensors."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, list(inputs), list(outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Calls the model with its inputs by name, or by place where it has one."""
        return tuple(self.named(*tensors).values())

    def named(self, *tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns what `forward` returns, by the names of the fields; those of a field of several are numbered."""
        if len(tensors) == 1 and not self.outputs:
            result = self.model(tensors[0])
        else:
            result = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        fields = {name: _tensors(getattr(result, name)) for name in self.outputs} or {"output": _tensors(result)}
        return {
            name if len(field) == 1 else f"{name}_{i}": tensor
            for name, field in fields.items()
            for i, tensor in enumerate(field)
        }


def _tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return [t for each in result for t in _tensors(each)]
    return []


def picture(size: tuple[int, ...], seed: int) -> np.ndarray:
    """Draws a smooth random picture with an edge, float32 of `size` with about unit variance: noise alone has no
    low frequencies, and every image would look the same to a network that averages."""
    generator = torch.Generator().manual_seed(seed)
    *frames, height, width = size
    coarse = torch.randn([1, int(np.prod(frames)), 4, 4], generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    cut = int(torch.randint(width // 4, 3 * width // 4, (), generator=generator))
    smooth[:, :, cut:] += float(torch.randn((), generator=generator))
    smooth += 0.1 * torch.randn(smooth.shape, generator=generator)
    return smooth.reshape(size).numpy().astype(np.float32)
