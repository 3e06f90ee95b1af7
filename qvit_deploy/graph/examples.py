"""Values of a graph's inputs for several examples: what every batch is, from the data to the runtimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import IMAGE


class Rows(Protocol):
    """What examples need of an array of numpy or torch."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Any: ...


Array = TypeVar("Array", bound=Rows)
Other = TypeVar("Other", bound=Rows)


@dataclass(frozen=True, eq=False)
class Examples(Generic[Array]):
    """The values of a graph's inputs for n examples, arrays of numpy or of torch. Its length is n.

    Attributes:
        arrays: input -> [n, ...]; where there are none, the shared values are one example.
        shared: input without an axis that counts examples -> its value for all of them.
    """

    arrays: Mapping[str, Array]
    shared: Mapping[str, Array] = field(default_factory=dict)

    @staticmethod
    def images(images: Other) -> Examples[Other]:
        """Returns examples of a graph that takes images [n, C, H, W] and nothing else."""
        return Examples({IMAGE: images})

    def __len__(self) -> int:
        first = next(iter(self.arrays.values()), None)
        return 1 if first is None else len(first)

    def __getitem__(self, rows: slice) -> Examples[Array]:
        return self.at(rows)

    @property
    def feeds(self) -> dict[str, Array]:
        """Returns input -> value, of all inputs."""
        return {**self.arrays, **self.shared}

    def feeds_for(self, names: Sequence[str]) -> dict[str, Array]:
        """Returns the value of every input in `names`; a graph's only input takes the only value by any name.

        Raises:
            InputError: there is no value for an input.
        """
        feeds = self.feeds
        if len(names) == len(feeds) == 1:
            return dict(zip(names, feeds.values(), strict=True))
        if missing := [name for name in names if name not in feeds]:
            raise InputError(f"the model's input {missing[0]!r} has no values; the data has {', '.join(feeds)}")
        return {name: feeds[name] for name in names}

    def at(self, rows: Any) -> Examples[Array]:
        """Returns the examples that `rows` selects: a slice, or whatever else the arrays take as an index."""
        return Examples({name: array[rows] for name, array in self.arrays.items()}, self.shared)

    def map(self, function: Callable[[Array], Other]) -> Examples[Other]:
        """Returns the examples whose values are those of `function`, which keeps the number of rows."""
        arrays = {name: function(array) for name, array in self.arrays.items()}
        return Examples(arrays, {name: function(array) for name, array in self.shared.items()})

    def beside(self, others: Examples[Array]) -> Examples[Array]:
        """Returns the examples with the values of further inputs."""
        return Examples({**self.arrays, **others.arrays}, {**self.shared, **others.shared})

    def cycled(self, count: int) -> Examples[Array]:
        """Returns `count` examples, which repeat these from the first on where there are fewer."""
        return self if count == len(self) else self.at(np.resize(np.arange(len(self)), count))


def concatenated(parts: Sequence[Examples[Array]], join: Callable[[list[Array]], Array]) -> Examples[Array]:
    """Returns the examples of all `parts`, which share what the first does, by numpy's concatenate or torch's cat."""
    first = parts[0]
    return Examples({name: join([p.arrays[name] for p in parts]) for name in first.arrays}, first.shared)
