"""A library that is imported when something of it is asked for: the names of rows are known where it is absent."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Library:
    """The module called `module`; its attributes are those of this value."""

    module: str

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.module), name)
