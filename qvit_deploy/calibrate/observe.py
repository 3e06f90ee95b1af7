"""Observes activations as they stream by: ranges and a sample of rows are stored, never the activations themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from qvit_deploy.errors import NonFiniteError
from qvit_deploy.execute.executor import Executor, Tap
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.sites import Site
from qvit_deploy.progress import Advance

Tensor = torch.Tensor

MAX_ROWS = 1024
"""Sampled rows per tensor: enough for a range search, 12 MB at 3,072 channels."""


@dataclass(frozen=True)
class Observation:
    """Statistics of one activation tensor [..., channels] over the calibration images.

    Attributes:
        low, high: smallest and largest value.
        channel_low, channel_high: the same per channel (last axis), float32 [channels].
        rows: a uniform sample of rows plus the rows that hold the extremes, float32 [<= MAX_ROWS, channels].
        weights: how many rows each of `rows` stands for, times its importance, float32 [<= MAX_ROWS].
        elements: elements per image.
    """

    low: float
    high: float
    channel_low: np.ndarray
    channel_high: np.ndarray
    rows: Tensor
    weights: Tensor
    elements: int

    @property
    def absmax(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def mean(self) -> Tensor:
        """The weighted mean of the rows, float32 [channels]."""
        return self.weights @ self.rows / self.weights.sum()


class Observer:
    """Accumulates the `Observation` of one tensor batch by batch.

    Args:
        quota: rows to sample of each image.
        importance: weight of each row of an image (`relevance.importance`), float32 [rows per image]; None: all equal.
    """

    def __init__(self, name: str, quota: int, generator: torch.Generator, importance: Tensor | None) -> None:
        self.name = name
        self.quota = quota
        self.generator = generator
        self.importance = importance
        self.low: Tensor | None = None
        self.high: Tensor | None = None
        self.rows: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.elements = 0

    def add(self, x: Tensor, images: int) -> None:
        """Adds the tensor [..., channels] of a batch of `images`. Raises NonFiniteError when it is NaN or infinite."""
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
        count = min(len(flat), max(1, self.quota * images))
        chosen = torch.randperm(len(flat), generator=self.generator)[:count].to(flat.device)
        self._sample(flat, chosen, len(flat) / count)
        # The rows with the largest magnitudes decide whether clipping is affordable: sample a few of each batch.
        self._sample(flat, flat.abs().amax(1).topk(min(2, len(flat))).indices, 1.0)

    def _sample(self, flat: Tensor, chosen: Tensor, weight: float) -> None:
        """Stores the rows numbered `chosen`; each stands for `weight` rows."""
        self.rows.append(flat[chosen].cpu())
        weights = torch.full((len(chosen),), weight)
        if self.importance is not None:
            weights *= self.importance[chosen.cpu() % len(self.importance)]
        self.weights.append(weights)

    def result(self) -> Observation:
        """Returns the statistics so far; needs at least one batch. Call it once: it thins the sample at random."""
        assert self.low is not None and self.high is not None
        rows, weights = torch.cat(self.rows), torch.cat(self.weights)
        if len(rows) > MAX_ROWS:
            order = rows.abs().amax(1).argsort(descending=True)
            extremes, others = order[: MAX_ROWS // 8], order[MAX_ROWS // 8 :]
            drawn = others[torch.randperm(len(others), generator=self.generator)[: MAX_ROWS - len(extremes)]]
            weights[drawn] *= len(others) / len(drawn)
            selected = torch.cat([extremes, drawn])
            rows, weights = rows[selected], weights[selected]
        return Observation(
            float(self.low.min()), float(self.high.max()), self.low.cpu().numpy(), self.high.cpu().numpy(),
            rows.contiguous(), weights, self.elements,
        )  # fmt: skip


def observe(
    executor: Executor,
    batches: Iterable[Examples[Tensor]],
    names: Iterable[str],
    images: int,
    seed: int,
    importance: Mapping[str, Tensor],
    advance: Advance,
) -> dict[str, Observation]:
    """Runs every batch once and observes the named tensors.

    Args:
        names: of the tensors.
        images: how many images the batches hold together; sets how many rows are sampled of each.
        importance: tensor name -> weight of each row of an image, where rows differ.

    Raises:
        NonFiniteError: an observed activation, or the output, is NaN or infinite; names the tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    quota = rows_per_image(images)
    observers = {name: Observer(name, quota, generator, importance.get(name)) for name in names}
    size = 0

    def tap(observer: Observer) -> Tap:
        return lambda x: observer.add(x, size)

    taps = {name: tap(observer) for name, observer in observers.items()}
    with torch.no_grad():
        for batch in batches:
            size = len(batch)
            outputs = executor.run(batch, taps=taps)
            for name, value in outputs.items():
                if not bool(torch.isfinite(value).all()):
                    raise NonFiniteError(f"output {name!r} of the float model is NaN or infinite")
            advance(len(batch))
    return {name: observer.result() for name, observer in observers.items()}


def rows_per_image(images: int) -> int:
    """Returns how many rows to sample of each of `images` for `MAX_ROWS` in all."""
    return -(-MAX_ROWS // max(images, 1))


def site_tensors(sites: Iterable[Site]) -> list[str]:
    """Returns the distinct activation tensors that sites read, and those that convolutions write (for `site_macs`)."""
    names = [n for s in sites for n in (s.input, s.second, s.output if s.kind == "conv" else None) if n is not None]
    return list(dict.fromkeys(names))


def site_macs(site: Site, observations: Mapping[str, Observation], weight_shape: tuple[int, ...] | None) -> int:
    """Returns the multiply-accumulates of a site per image.

    An attention product has (elements of the left operand) x (columns of the right one).

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
