"""How long work reports its progress: the library announces stages, whoever called it decides what to show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of units (images, sites) just done."""


class Progress(Protocol):
    """Opens a stage of `total` units (None: unknown) and hands out the function that advances it."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Returns a context that lasts as long as the stage."""


class Stopwatch:
    """Passes stages on to another `Progress` (or nobody) and keeps how many seconds each took."""

    def __init__(self, inner: Progress | None = None) -> None:
        self.inner = inner
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Times a stage and passes it on."""
        start = time.perf_counter()
        try:
            if self.inner is None:
                yield lambda _: None
            else:
                with self.inner.stage(name, total) as advance:
                    yield advance
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Counts time without showing it."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def mention(self, name: str, seconds: float = 0.0) -> None:
        """Shows a stage that is over already."""
        with self.stage(name):
            pass
        self.add(name, seconds)
