"""A Python without some of the libraries that this one has."""

from __future__ import annotations

import sys

import pytest


def without(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Lets imports of `modules` fail, as where they are not installed: none can both have and lack them."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
