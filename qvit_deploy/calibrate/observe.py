"""Streaming observers: what calibration keeps of the activations; never the activations themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.errors import NonFiniteError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.sites import Site

Tensor = torch.Tensor
Progress = Callable[[int], None]
"""Called with the number of images just processed."""

ROWS_KEPT = 1024
"""Sampled rows per tensor: enough for a range search, 12 MB at 3,072 channels."""


@dataclass(frozen=True)
class Observation:
    """What is known of one activation tensor [..., channels].

    Attributes:
        low, high: extremes over everything seen, float.
        channel_low, channel_high: per last-axis channel, float32 [channels].
        rows: a uniform sample of rows plus the rows that hold the extremes, float32 [<= ROWS_KEPT, channels].
        elements: elements per image.
    """

    low: float
    high: float
    channel_low: np.ndarray
    channel_high: np.ndarray
    rows: Tensor
    elements: int

    @property
    def absmax(self) -> float:
        return max(abs(self.low), abs(self.high))


class _Observer:
    """Accumulates one tensor's `Observation` from batches."""

    def __init__(self, name: str, rows_expected: int, generator: torch.Generator) -> None:
        self.name = name
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.sample: list[Tensor] = []
        self.extreme: Tensor | None = None
        self.elements = 0
        self.quota = rows_expected
        self.generator = generator

    def __call__(self, x: Tensor) -> None:
        images = self.batch
        flat = x.detach().reshape(-1, x.shape[-1])
        low, high = flat.amin(0), flat.amax(0)
        if not bool(torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise NonFiniteError(
                f"activation {self.name!r} is NaN or infinite on the calibration images: the float model overflows "
                "or holds broken weights; check it in its own framework first"
            )
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)
        self.elements = x.numel() // images
        keep = min(len(flat), max(1, self.quota * images))
        chosen = torch.randperm(len(flat), generator=self.generator)[:keep].to(flat.device)
        self.sample.append(flat[chosen].cpu())
        # The rows with the largest magnitudes decide whether clipping is affordable: keep a few of each batch.
        largest = flat.abs().amax(1).topk(min(2, len(flat))).indices
        self.sample.append(flat[largest].cpu())

    batch: int = 1

    def result(self) -> Observation:
        assert self.low is not None and self.high is not None
        rows = torch.cat(self.sample)
        if len(rows) > ROWS_KEPT:
            order = rows.abs().amax(1).argsort(descending=True)
            extremes, others = order[: ROWS_KEPT // 8], order[ROWS_KEPT // 8 :]
            picked = torch.randperm(len(others), generator=self.generator)[: ROWS_KEPT - len(extremes)]
            rows = rows[torch.cat([extremes, others[picked]])]
        return Observation(
            float(self.low.min()), float(self.high.max()), self.low.cpu().numpy(), self.high.cpu().numpy(),
            rows.contiguous(), self.elements,
        )  # fmt: skip


def observe(
    executor: Executor, batches: Iterable[Tensor], names: Iterable[str], images: int, seed: int, progress: Progress
) -> dict[str, Observation]:
    """Runs every batch once and observes the named tensors.

    Args:
        batches: float32 [b, C, H, W] tensors.
        images: how many images the batches hold together; sets how many rows are sampled of each.

    Raises:
        NonFiniteError: an observed activation, or the output, is NaN or infinite; names the tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    quota = -(-ROWS_KEPT // max(images, 1))
    observers = {name: _Observer(name, quota, generator) for name in names}
    with torch.no_grad():
        for batch in batches:
            for observer in observers.values():
                observer.batch = len(batch)
            outputs = executor.run(batch, taps=observers)
            for name, value in outputs.items():
                if not bool(torch.isfinite(value).all()):
                    raise NonFiniteError(f"output {name!r} of the float model is NaN or infinite")
            progress(len(batch))
    return {name: observer.result() for name, observer in observers.items()}


def site_tensors(sites: Iterable[Site]) -> list[str]:
    """The distinct activation tensors the sites read, and those convolutions write (`site_macs` counts them)."""
    names = [n for s in sites for n in (s.input, s.second, s.output if s.kind == "conv" else None) if n is not None]
    return list(dict.fromkeys(names))


def site_macs(site: Site, observations: Mapping[str, Observation], weight_shape: tuple[int, ...] | None) -> int:
    """Multiply-adds per image. For attention: (elements of the left operand) x (columns of the right one).

    Args:
        weight_shape: of the weight as a matrix (`quantize.plan.site_weights`): [terms summed, output channels].
    """
    elements = observations[site.input].elements
    if site.kind == "linear":
        assert weight_shape is not None
        return elements * weight_shape[1]
    if site.kind == "conv":
        assert weight_shape is not None
        return observations[site.output].elements * weight_shape[0]
    assert site.second is not None
    return elements * len(observations[site.second].channel_low)
