"""Objectives: the scalar of a model's outputs that a backward pass or a patch is about, one number per image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch

from qvit_deploy.errors import InputError

Tensor = torch.Tensor

Objective = Callable[[Tensor], Tensor]
"""Logits [batch, classes] -> one number per image, [batch], differentiable."""


def predicted(logits: Tensor) -> Tensor:
    """The largest logit of every image."""
    return logits.amax(1)


def logit(classes: Tensor) -> Objective:
    """The logit of one class per image; `classes` int64 [batch]."""
    return lambda logits: logits.gather(1, classes.to(logits.device)[:, None]).squeeze(1)


def logit_difference(classes: Tensor, others: Tensor) -> Objective:
    """logit(class) - logit(other) of every image; both int64 [batch]."""
    first, second = logit(classes), logit(others)
    return lambda logits: first(logits) - second(logits)


def unit(objective: Objective) -> Objective:
    """`objective` with relevance 1 per image at the start, whatever its value (Chefer et al. 2021: R = one-hot)."""

    def scaled(logits: Tensor) -> Tensor:
        value = objective(logits)
        return value / torch.where(value == 0, torch.ones_like(value), value).detach()

    return scaled


Metric = Callable[[Tensor, Tensor], Objective]
"""(clean logits, corrupt logits), both [pairs, classes] -> the objective of each pair."""


def predictions_apart(clean: Tensor, corrupt: Tensor) -> tuple[Tensor, Tensor]:
    """(class predicted on clean, class it is held against), int64 [pairs] each.

    The other class is the one predicted on corrupt; where that is the same one, the class whose logit gained most on
    the predicted one.
    """
    top = clean.argmax(1)
    gain = (corrupt - clean).scatter(1, top[:, None], -torch.inf)
    other = corrupt.argmax(1)
    return top, torch.where(other == top, gain.argmax(1), other)


def log_probability(classes: Tensor) -> Objective:
    """The logarithm of one class's softmax probability per image; `classes` int64 [batch]."""
    chosen = logit(classes)
    return lambda logits: chosen(logits.log_softmax(1))


METRICS: Mapping[str, tuple[Callable[[Tensor, Tensor], Objective], int]] = MappingProxyType(
    {
        "logit-diff": (logit_difference, 2),
        "logit": (lambda classes, _: logit(classes), 1),
        "log-prob": (lambda classes, _: log_probability(classes), 1),
    }
)
"""Name -> (objective of a class and the class it is held against, how many of them the user may name)."""


def parse_metric(text: str) -> Metric:
    """`logit-diff`, `logit` or `log-prob`, or one of them with its classes: `logit-diff:3,5`, `logit:3`.

    Without classes they are those of `predictions_apart`.

    Raises:
        InputError: no such metric, or classes that are not whole numbers, too many or too few; and, from the metric
            itself, a class that the model does not have.
    """
    name, _, given = text.partition(":")
    if name not in METRICS:
        raise InputError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}")
    build, wanted = METRICS[name]
    parts = given.split(",") if given else []
    if parts and (len(parts) != wanted or not all(re.fullmatch(r"\d{1,9}", part) for part in parts)):
        example = f"{name}:{','.join('35'[:wanted])}"
        raise InputError(f"metric {text!r}: give {wanted} class number{'s' * (wanted > 1)}, e.g. {example}")
    classes = [int(part) for part in parts]

    def metric(clean: Tensor, corrupt: Tensor) -> Objective:
        if not classes:
            return build(*predictions_apart(clean, corrupt))
        pairs, count = clean.shape
        if max(classes) >= count:
            raise InputError(f"metric {text!r}: class {max(classes)} is out of range, the model has 0 to {count - 1}")
        return build(*(torch.full((pairs,), c, dtype=torch.int64) for c in (classes[0], classes[-1])))

    return metric
