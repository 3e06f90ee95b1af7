"""What a task is: what the outputs of a model mean.

A compile needs four things of it: the scalar a backward pass starts from, how far a quantized model's outputs are from
the float model's, how good they are by labels, and the words in which a person reads these numbers.

Damage is counted at every output: a task names its signals, the outputs whose error counts, and what it says of a model
is said of its worst.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from qvit_deploy.data.labels.opening import LabelKind, Labels
from qvit_deploy.errors import CheckError, InputError
from qvit_deploy.graph.interface import Interface
from qvit_deploy.tasks.metrics import Noise, relative_error
from qvit_deploy.tasks.tally import Tally
from qvit_deploy.tasks.views import View

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
        score: what is measured by labels, in a word: top-1.
        same: what agreeing outputs have in common: top-1.
        signal: what `Task.signals` are, in the plural: logits.
        answer, answers: what `Task.answers` are, one and several: class, predictions.
        counted: what `Task.agreement` is a share of: images.
    """

    score: str
    same: str
    signal: str
    answer: str
    answers: str
    counted: str = "images"


class Task(ABC):
    """What the outputs of a model mean.

    A task has no state but its options: it equals any other of its class and options, also after it was sent to
    another process.

    Attributes:
        labels: which labels say how good the outputs are; None for none.
        default_metric: the metric of patches where the user names none, as for `parse_metric`.
    """

    name: str
    words: Words
    labels: LabelKind | None
    default_metric: str

    @property
    def text(self) -> str:
        """What the task is called with its options, which `registry.task_called` reads."""
        return self.name

    def with_options(self, text: str) -> Task:
        """Returns the task with options, what stands behind its name and a colon. Raises InputError: there are
        none."""
        raise InputError(f"task {self.name!r} takes no options, got {text!r}")

    @abstractmethod
    def for_model(self, interface: Interface) -> Task:
        """Returns the task as it is for a model, with everything found out that the user left open.

        Raises:
            InputError: the outputs of the model cannot be what the task is about.
        """

    @abstractmethod
    def signals(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the tensors [batch, ...] whose error is the damage, by the output they are of: SQNR is taken of
        each. Works on torch and numpy alike."""

    @abstractmethod
    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        """Returns what a backward pass without a metric starts from.

        Args:
            sample: batches of outputs of the float model, for what the objective has to know of them; run one by one
                as they are asked for.
            seed: of what is random in it.

        Raises:
            InputError: no output says anything about the image.
        """

    @abstractmethod
    def answers(self, outputs: Arrays) -> np.ndarray | None:
        """Returns what the model decides for each example, int64 [n]; None where it decides nothing."""

    @abstractmethod
    def agreement(self, reference: Arrays, other: Arrays) -> float | None:
        """Returns the share, in [0, 1], of examples on which two models say the same; None where nothing can be the
        same."""

    @abstractmethod
    def tally(self, labels: Labels | None) -> Tally:
        """Returns what counts up an evaluation; `labels` are of the kind that the task takes."""

    def views(self, outputs: Arrays) -> list[View]:
        """Returns what a person would look at for each image of a batch; nothing where numbers say all."""
        return []

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
    def pair_metric_text(self, metric: str, clean: int | None, corrupt: int | None) -> str:
        """Says the same for one pair, by what the model answers on its two images."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def sqnr_db(self, reference: Arrays, other: Arrays) -> float:
        """Returns the signal to quantization noise ratio of `other` against `reference`, in dB: that of the worst
        output."""
        return min(self.sqnr_by_output(reference, other).values())

    def sqnr_by_output(self, reference: Arrays, other: Arrays) -> dict[str, float]:
        """Returns output -> its signal to quantization noise ratio in dB, the worst first (`metrics.Noise`)."""
        noise = Noise()
        noise.add(self.signals(reference), self.signals(other))
        return noise.ratios_db()

    def relative_errors(self, reference: Arrays, other: Arrays) -> dict[str, float]:
        """Returns output -> the largest difference of its signal, relative to its largest value, the largest first."""
        exact, measured = self.signals(reference), self.signals(other)
        errors = {name: relative_error(exact[name], measured[name]) for name in exact}
        return dict(sorted(errors.items(), key=lambda item: -item[1]))

    def require_finite(self, outputs: Arrays, what: str) -> None:
        """Raises CheckError that names the first output whose signal holds NaN or infinity; `what` gave it."""
        for name, value in self.signals(outputs).items():
            if not np.isfinite(value).all():
                raise CheckError(f"{what} gives NaN or infinity in output {name!r}")

    def score_text(self, score: float) -> str:
        """Returns `score` as a person reads it: 91.3%."""
        return f"{score:.1%}"


def examples(outputs: Mapping[str, Array], chosen: slice) -> dict[str, Array]:
    """Returns the outputs of some of a batch's examples."""
    return {name: value[chosen] for name, value in outputs.items()}


def by_example(value: torch.Tensor) -> torch.Tensor:
    """Returns a tensor [batch, ...] as a matrix [batch, numbers of an example], those of scalars [batch, 1]."""
    return value.reshape(len(value), -1)


def arrays(outputs: Outputs) -> dict[str, np.ndarray]:
    """Outputs of the executor as a runtime would give them."""
    return {name: value.detach().cpu().numpy() for name, value in outputs.items()}
