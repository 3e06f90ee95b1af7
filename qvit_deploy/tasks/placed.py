"""Tasks whose outputs have places: one number at a pixel, or of a query, can be what patches are measured by."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qvit_deploy.errors import InputError
from qvit_deploy.tasks.configured import ConfiguredTask, Options
from qvit_deploy.tasks.task import Metric, Objective, Outputs

if TYPE_CHECKING:
    from torch import Tensor


class PlacedTask(ConfiguredTask[Options]):
    """A task with a metric that reads the number at one place of an output, `pixel:ROW,COL`; beside `output-change`.

    Attributes:
        place: what the metric is called.
        coordinates: the names of the numbers behind it, for every count of them that may be given, the fewest first.
    """

    place: str
    coordinates: tuple[tuple[str, ...], ...]

    @abstractmethod
    def at_place(self, outputs: Outputs, metric: str, numbers: Sequence[int]) -> Tensor:
        """Returns the number at the place of every example, [batch]; `metric` is as the user wrote it.

        Raises:
            InputError: there is no such place.
        """

    @abstractmethod
    def place_text(self, numbers: Sequence[int]) -> str:
        """Says which number stands at a place, as `the logit of class 3 at query 5`."""

    def parse_metric(self, text: str) -> Metric:
        """Reads the number at a place, as `metrics` writes it; or `output-change`.

        Raises:
            InputError: there is no such metric; and, from the metric itself, a place that does not exist.
        """
        name, _, given = text.partition(":")
        if name != self.place:
            return super().parse_metric(text)
        fitting = (names for names in self.coordinates if given.count(",") < len(names))
        numbers = _whole_numbers(name, given, next(fitting, self.coordinates[-1]))

        def at(outputs: Outputs) -> Tensor:
            return self.at_place(outputs, text, numbers)

        def metric(clean: Outputs, corrupt: Outputs) -> Objective:
            return at

        return metric

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics there are, as a person writes them."""
        return (*super().metrics, *(f"{self.place}:{','.join(names)}" for names in self.coordinates))

    def metric_text(self, metric: str) -> str:
        """Says what a metric measures."""
        name, _, given = metric.partition(":")
        if name != self.place:
            return super().metric_text(metric)
        return self.place_text([int(number) for number in given.split(",")])

    def pair_metric_text(self, metric: str, clean: int | None, corrupt: int | None) -> str:
        """Says the same for one pair."""
        return self.metric_text(metric).removeprefix("the ")


def in_range(metric: str, what: str, value: int, count: int) -> None:
    """Raises InputError unless a metric's number names one of `count` rows, columns, queries or classes."""
    if value >= count:
        raise InputError(f"metric {metric!r}: {what} {value} is out of range, the model has 0 to {count - 1}")


def _whole_numbers(metric: str, text: str, names: Iterable[str]) -> list[int]:
    """Reads the numbers of a metric like `pixel:3,5,1`, one for each of `names`. Raises InputError."""
    names, parts = list(names), text.split(",")
    if len(parts) != len(names) or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        example = ",".join(str(i) for i in range(3, 3 + len(names)))
        raise InputError(f"metric '{metric}:{text}': give {metric}:{','.join(names)}, e.g. {metric}:{example}")
    return [int(part) for part in parts]
