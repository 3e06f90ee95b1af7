"""A set of examples as a model takes them: what pictures and ready tensors have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples

if TYPE_CHECKING:
    from hashlib import _Hash as Hash


class ExampleSet(ABC):
    """N examples.

    Attributes:
        names: of the examples.
        labels: int64 [N], or None.
        class_names: by label.
        skipped: names what was left out, with the reason.
        label_maps: the archive the examples are from, where that has a label map for every one of them.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None
    skipped: tuple[tuple[str, str], ...]
    label_maps: Path | None

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, batch_size: int) -> Iterator[Examples[NDArray[Any]]]:
        """Yields the examples in order, `batch_size` at a time; the last batch may be smaller.

        Raises:
            InputError: a file is corrupt, or is gone since the set was opened.
        """
        if batch_size < 1:
            raise InputError(f"batch size must be at least 1, got {batch_size}")
        for start in range(0, len(self), batch_size):
            yield self.between(start, min(start + batch_size, len(self)))

    @abstractmethod
    def between(self, start: int, stop: int) -> Examples[NDArray[Any]]:
        """Returns the examples from `start` up to `stop`. Raises InputError."""

    @abstractmethod
    def take(self, indices: NDArray[np.intp]) -> Self:
        """Returns the examples at `indices`, in that order."""

    @cached_property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 (hex) over all that a model sees, and the labels; names do not matter."""

    def subset(self, n: int, seed: int) -> Self:
        """Draws `n` examples (all, if there are fewer), balanced over the classes if any; their order is kept."""
        if n < 1:
            raise InputError(f"the number of images must be at least 1, got {n}")
        if n >= len(self):
            return self
        return self.take(np.sort(draw(len(self), self.labels, seed)[:n]))

    def without(self, other: ExampleSet) -> Self:
        """Returns the examples whose names are not in `other`, a set from the same place; perhaps none."""
        excluded = set(other.names)
        return self.take(np.array([i for i, name in enumerate(self.names) if name not in excluded], dtype=np.intp))


def draw(count: int, labels: NDArray[np.int64] | None, seed: int) -> NDArray[np.intp]:
    """Returns a permutation of `count` indices, each prefix of it balanced over the classes as far as they reach."""
    shuffled = np.random.default_rng(seed).permutation(count)
    if labels is None:
        return shuffled
    # The r-th picture drawn from each class comes in round r. Sorted by class, its round is its place in the class.
    drawn = labels[shuffled]
    by_class = np.argsort(drawn, kind="stable")
    first_of_class = np.searchsorted(drawn[by_class], drawn[by_class])
    rounds = np.empty(count, dtype=np.intp)
    rounds[by_class] = np.arange(count) - first_of_class
    return shuffled[np.argsort(rounds, kind="stable")]


def update(sha: Hash, examples: Examples[NDArray[Any]]) -> None:
    """Adds the values of examples, and the names of their inputs, to a digest."""
    for name, array in sorted(examples.feeds.items()):
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
