"""Classification: one row of logits per image, of which the largest is the answer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from qvit_deploy.data.labels.opening import Labels
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface
from qvit_deploy.tasks.all_outputs import AllOutputs
from qvit_deploy.tasks.tally import Figure, Tally, agreement_with_float, share
from qvit_deploy.tasks.task import Arrays, Metric, Objective, Outputs, Task, Words

if TYPE_CHECKING:
    from torch import Tensor

    from qvit_deploy.tasks.task import Array


class Classify(AllOutputs):
    """One output is the logits, [batch, classes]. Whatever else a model puts out counts as it does for any model."""

    name = "classify"
    words = Words(score="top-1", same="top-1", signal="logits", answer="class", answers="predictions")
    labels = "classes"
    default_metric = "logit-diff"

    def for_model(self, interface: Interface) -> Task:
        """Returns the task itself. Raises InputError unless an output is floating point with two dimensions."""
        if not any(output.is_float and len(output.shape) == 2 for output in interface.outputs):
            described = ", ".join(f"{o.name!r} [{', '.join(map(str, o.shape))}]" for o in interface.outputs)
            raise InputError(
                f"task 'classify' needs an output of logits [batch, classes]; the model gives {described}: pass "
                "another --task"
            )
        return self

    def objective_for(self, sample: Iterable[Outputs], seed: int) -> Objective:
        """Returns the largest logit of every image, or `objective.projection` where the logits are not all that comes
        out."""
        first, rest = _peek(sample)
        return super().objective_for(rest, seed) if len(self.signals(first)) > 1 else largest_logit

    def answers(self, outputs: Arrays) -> np.ndarray:
        """Returns the class of the largest logit."""
        classes: np.ndarray = logits_of(outputs).argmax(-1)
        return classes

    def agreement(self, reference: Arrays, other: Arrays) -> float:
        """Returns the share of images with the same largest logit."""
        return float((self.answers(reference) == self.answers(other)).mean())

    def score(self, outputs: Arrays, labels: np.ndarray) -> float:
        """Returns top-1: the share of images whose largest logit is that of their label, int64 [n].

        Raises:
            InputError: the outputs are no logits, or there are labels of classes they do not have.
        """
        logits = logits_of(outputs)
        if logits.ndim != 2:
            shape = "x".join(map(str, logits.shape[1:]))
            raise InputError(
                f"top-1 needs logits [images, classes], the model gives {shape} an image; pass another --task"
            )
        if labels.max() >= logits.shape[1]:
            raise InputError(f"the labels go up to class {labels.max()}, the model has {logits.shape[1]} classes")
        return float((self.answers(outputs) == labels).mean())

    def tally(self, labels: Labels | None) -> Tally:
        """Counts images with the same largest logit, and with classes those whose largest logit is theirs."""
        assert labels is None or isinstance(labels, np.ndarray)
        return _ClassifyTally(self, labels)

    def parse_metric(self, text: str) -> Metric:
        """Reads `logit-diff`, `logit` or `log-prob`, or one of them with its classes: `logit-diff:3,5`, `logit:3`.

        Without classes they are those of `predictions_apart`.

        Raises:
            InputError: no such metric, or classes that are not whole numbers, too many or too few; and, from the
                metric itself, a class that the model does not have.
        """
        name, _, given = text.partition(":")
        if name not in METRICS:
            raise InputError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}")
        build, arity = METRICS[name]
        parts = given.split(",") if given else []
        if parts and (len(parts) != arity or not all(re.fullmatch(r"\d{1,9}", part) for part in parts)):
            example = f"{name}:{','.join('35'[:arity])}"
            raise InputError(f"metric {text!r}: give {arity} class number{'s' * (arity > 1)}, e.g. {example}")
        classes = [int(part) for part in parts]

        def metric(clean: Outputs, corrupt: Outputs) -> Objective:
            on_clean, on_corrupt = logits_of(clean), logits_of(corrupt)
            if not classes:
                return build(*predictions_apart(on_clean, on_corrupt))
            pairs, count = on_clean.shape
            if max(classes) >= count:
                raise InputError(
                    f"metric {text!r}: class {max(classes)} is out of range, the model has 0 to {count - 1}"
                )
            some = on_clean.argmax(1)
            return build(*(some.new_full((pairs,), c) for c in (classes[0], classes[-1])))

        return metric

    def metric_text(self, metric: str) -> str:
        """Returns `the logit of a class`, with the classes where they are named."""
        name, _, classes = metric.partition(":")
        return METRIC_TEXT.get(name, name) + (f" (classes {classes.replace(',', ' and ')})" if classes else "")

    def pair_metric_text(self, metric: str, clean: int | None, corrupt: int | None) -> str:
        """Returns `logit of class 3 minus logit of class 5`; `clean` and `corrupt` are the predicted classes."""
        name, _, classes = metric.partition(":")
        named = [c for c in classes.split(",") if c]
        first = named[0] if named else str(clean)
        if name != "logit-diff":
            return f"{name} of class {first}"
        if not named and clean == corrupt:
            return f"logit of class {first} minus that of the class that gains most on it"
        return f"logit of class {first} minus logit of class {named[-1] if named else corrupt}"


class _ClassifyTally(Tally):
    def __init__(self, task: Classify, labels: np.ndarray | None) -> None:
        self._task, self._labels = task, labels
        self._n = 0
        self._right: list[int] = []
        self._same: int | None = None

    def add(self, outputs: Arrays, reference: Arrays | None, place: slice) -> None:
        models = [each for each in (outputs, reference) if each is not None]
        count = place.stop - place.start
        self._n += count
        if self._labels is not None:
            right = [round(self._task.score(each, self._labels[place]) * count) for each in models]
            self._right = [a + b for a, b in zip(self._right or [0] * len(right), right, strict=True)]
        if reference is not None:
            self._same = (self._same or 0) + round(self._task.agreement(reference, outputs) * count)

    def by_labels(self) -> list[Figure]:
        if not self._right:
            return []
        ours, *exact = (right / self._n for right in self._right)
        return [share(self._task.words.score, "top1", ours, exact[0] if exact else None)]

    def to_float(self) -> list[Figure]:
        return [] if self._same is None else [agreement_with_float(self._same / self._n)]


CLASSIFY = Classify()


def logits_of(outputs: Mapping[str, Array]) -> Array:
    """Returns the logits among a classifier's outputs: the first that is [batch, classes]."""
    signals = CLASSIFY.signals(outputs).values()
    return next((value for value in signals if value.ndim == 2), next(iter(signals)))


def largest_logit(outputs: Outputs) -> Tensor:
    """The objective of a classifier where no class is named: the largest logit of every image."""
    return logits_of(outputs).amax(1)


def _peek(sample: Iterable[Outputs]) -> tuple[Outputs, Iterator[Outputs]]:
    """Returns the first of the batches, and all of them."""
    batches = iter(sample)
    first = next(batches)
    return first, itertools.chain([first], batches)


def logit(classes: Tensor) -> Objective:
    """Returns the objective that reads the logit of one class per image; `classes` int64 [batch]."""

    def chosen(outputs: Outputs) -> Tensor:
        return _of_classes(logits_of(outputs), classes)

    return chosen


def logit_difference(classes: Tensor, others: Tensor) -> Objective:
    """Returns the objective logit(class) - logit(other) of every image; both int64 [batch]."""
    first, second = logit(classes), logit(others)
    return lambda outputs: first(outputs) - second(outputs)


def log_probability(classes: Tensor) -> Objective:
    """Returns the objective log softmax(logits)[class] of every image; `classes` int64 [batch]."""
    return lambda outputs: _of_classes(logits_of(outputs).log_softmax(1), classes)


def predictions_apart(clean: Tensor, corrupt: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (class predicted on clean, class it is compared with), int64 [pairs] each, of logits [pairs, classes].

    The other class is the one predicted on corrupt; where that is the same one, the class whose logit gained most on
    the predicted one.
    """
    top = clean.argmax(1)
    gain = (corrupt - clean).scatter(1, top[:, None], float("-inf"))
    other = corrupt.argmax(1)
    return top, gain.argmax(1).where(other == top, other)


METRICS: Mapping[str, tuple[Callable[[Tensor, Tensor], Objective], int]] = MappingProxyType(
    {
        "logit-diff": (logit_difference, 2),
        "logit": (lambda classes, _: logit(classes), 1),
        "log-prob": (lambda classes, _: log_probability(classes), 1),
    }
)
"""Name -> (objective of a class and the class it is compared with, how many of them the user may name)."""

METRIC_TEXT = MappingProxyType(
    {
        "logit-diff": "the logit of one class minus that of another",
        "logit": "the logit of a class",
        "log-prob": "the logarithm of a class's probability",
    }
)


def _of_classes(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(1, classes.to(values.device)[:, None]).squeeze(1)
