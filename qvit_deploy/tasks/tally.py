"""What an evaluation counts up batch by batch, and the numbers that come of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation.

    Attributes:
        key: its name in JSON, the unit in it where it is no share: mae_m would be metres.
        name: what a person calls it.
        value: of the model.
        of_float: the same of the float model, where both are measured by labels; `float_` and the key in JSON.
        form: how a person reads the value, for `str.format`.
        note: stands behind the value.
    """

    key: str
    name: str
    value: float
    of_float: float | None = None
    form: str = "{:.1%}"
    note: str = ""

    @property
    def text(self) -> str:
        """What a person reads: mIoU 45.3% (float 45.9%)."""
        beside = "" if self.of_float is None else f" (float {self.form.format(self.of_float)})"
        return f"{self.name} {self.shown}{self.note and ' '}{self.note}{beside}"

    @property
    def shown(self) -> str:
        """The value as a person reads it."""
        return self.form.format(self.value)


class Tally(ABC):
    """The numbers of one model, and of the float model where there is one, over batches of images."""

    @abstractmethod
    def add(self, outputs: Arrays, reference: Arrays | None, place: slice) -> None:
        """Takes in a batch.

        Args:
            outputs: of the model.
            reference: of the float model on the same images.
            place: of the images among all, and so of their labels.

        Raises:
            InputError: labels do not fit the outputs.
        """

    @abstractmethod
    def by_labels(self) -> list[Figure]:
        """Returns how good the models are by the labels; nothing without labels."""

    @abstractmethod
    def to_float(self) -> list[Figure]:
        """Returns how far the model is from the float model; nothing without one."""

    def headline(self) -> Figure | None:
        """Returns the first number of the evaluation: by labels, or without any against float. None where that is the
        task's agreement, or nothing."""
        figures = self.by_labels() or [figure for figure in self.to_float() if figure.key != AGREEMENT]
        return figures[0] if figures else None


AGREEMENT = "agreement"
"""Key of the figure that every task has that decides something, with `Task.agreement` over all images."""


def agreement_with_float(value: float) -> Figure:
    """Returns the share of decisions that are the float model's."""
    return Figure(AGREEMENT, "agreement with float", value)


def share(name: str, key: str, value: float, of_float: float | None) -> Figure:
    """Returns a figure in [0, 1], which a person reads in per cent, beside the float model's."""
    return Figure(key, name, value, of_float)


def amount(name: str, key: str, value: float, of_float: float | None) -> Figure:
    """Returns a figure that a person reads with four digits, beside the float model's."""
    return Figure(key, name, value, of_float, "{:.4g}")
