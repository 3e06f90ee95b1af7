"""What a task is: what the outputs of a model mean.

A compile needs four things of it: the scalar a backward pass starts from, how far a quantized model's outputs are from
the float model's, how good they are by labels, and the words in which a person reads these numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from qvit_deploy.tasks.metrics import sqnr_db

if TYPE_CHECKING:
    import torch

    Array = TypeVar("Array", torch.Tensor, np.ndarray)

Outputs = Mapping[str, "torch.Tensor"]
"""Name -> tensor [batch, ...], in the order of the graph's outputs: what the executor computes."""

Arrays = Mapping[str, np.ndarray]
"""The same as a runtime gives it."""

Objective = Callable[[Outputs], "torch.Tensor"]
"""Outputs of a batch -> one number per example, [batch], differentiable."""

Metric = Callable[[Outputs, Outputs], Objective]
"""(clean outputs, corrupt outputs) of pairs of examples -> the objective of each pair."""


@dataclass(frozen=True)
class Words:
    """How a person is told what a task measures.

    Attributes:
        score: what `Task.score` is: top-1.
        same: what agreeing outputs have in common: top-1.
        signal: what `Task.signal` is, in the plural: logits.
        answer, answers: what `Task.answers` are, one and several: class, predictions.
    """

    score: str
    same: str
    signal: str
    answer: str
    answers: str


class Task(ABC):
    """What the outputs of a model mean.

    A task has no state: it equals any other of its class, also after it was sent to another process.
    """

    name: str
    words: Words

    @abstractmethod
    def signal(self, outputs: Mapping[str, Array]) -> Array:
        """Returns the tensor [batch, ...] whose error is the damage: SQNR is taken of it. Works on torch and numpy
        alike."""

    @abstractmethod
    def objective(self, outputs: Outputs) -> torch.Tensor:
        """Returns what a backward pass without a metric starts from: one number per example, [batch],
        differentiable."""

    @abstractmethod
    def answers(self, outputs: Arrays) -> np.ndarray:
        """Returns what the model decides for each example, int64 [n]."""

    @abstractmethod
    def agreement(self, reference: Arrays, other: Arrays) -> float:
        """Returns the share of examples, in [0, 1], on which two models say the same."""

    @abstractmethod
    def score(self, outputs: Arrays, labels: np.ndarray) -> float:
        """Measures how good the outputs are by `labels` [n]; larger is better."""

    @abstractmethod
    def parse_metric(self, text: str) -> Metric:
        """Returns the metric of patches that `--metric` names.

        Raises:
            InputError: there is no such metric; and, from the metric itself, what it names is not in the model.
        """

    @abstractmethod
    def metric_text(self, metric: str) -> str:
        """Says what a metric, named as for `parse_metric`, measures, as a part of a sentence."""

    @abstractmethod
    def pair_metric_text(self, metric: str, clean: int, corrupt: int) -> str:
        """Says the same for one pair, by what the model answers on its two images."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def sqnr_db(self, reference: Arrays, other: Arrays) -> float:
        """Returns the signal to quantization noise ratio of `other` against `reference`, in dB (`metrics.sqnr_db` of
        their signals)."""
        return sqnr_db(self.signal(reference), self.signal(other))

    def score_text(self, score: float) -> str:
        """Returns `score` as a person reads it: 91.3%."""
        return f"{score:.1%}"


def examples(outputs: Mapping[str, Array], chosen: slice) -> dict[str, Array]:
    """Returns the outputs of some of a batch's examples."""
    return {name: value[chosen] for name, value in outputs.items()}


def arrays(outputs: Outputs) -> dict[str, np.ndarray]:
    """Outputs of the executor as a runtime would give them."""
    return {name: value.detach().cpu().numpy() for name, value in outputs.items()}
