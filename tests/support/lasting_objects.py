"""Keeps what lasts as long as the process out of the garbage collector's way.

A compile collects five times. With what torch, timm and this suite leave in memory, 600,000 objects and as many again
where a test imported `torch.export` or `torch.optim`, that takes three times as long as the compile of a tiny model.
"""

from __future__ import annotations

import gc
import sys

MANY = 20
"""Modules; a collection is not worth it for fewer."""


class LastingObjects:
    """Tells the collector to leave alone whatever is alive after many modules were imported."""

    def __init__(self) -> None:
        self._modules = 0

    def freeze(self) -> None:
        """Freezes all objects, if many modules were imported since the last time."""
        if len(sys.modules) > self._modules + MANY:
            gc.collect()
            gc.freeze()
            self._modules = len(sys.modules)
