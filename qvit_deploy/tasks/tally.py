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
        value: of the model.
        of_float: the same of the float model, where both are measured by labels; `float_` and the key in JSON.
        text: what a person reads: mIoU 45.3% (float 45.9%).
    """

    key: str
    value: float | None
    of_float: float | None
    text: str


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


def share(name: str, key: str, value: float, of_float: float | None) -> Figure:
    """Returns a figure in [0, 1], which a person reads in per cent, beside the float model's."""
    return _beside(name, key, value, of_float, "{:.1%}")


def agreement_with_float(value: float) -> Figure:
    """Returns the share of decisions that are the float model's."""
    return Figure("agreement", value, None, f"agreement with float {value:.1%}")


def amount(name: str, key: str, value: float, of_float: float | None) -> Figure:
    """Returns a figure that a person reads with four digits, beside the float model's."""
    return _beside(name, key, value, of_float, "{:.4g}")


def _beside(name: str, key: str, value: float, of_float: float | None, form: str) -> Figure:
    beside = "" if of_float is None else f" (float {form.format(of_float)})"
    return Figure(key, value, of_float, f"{name} {form.format(value)}{beside}")
