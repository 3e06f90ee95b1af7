"""The shipped models, each traced once a process; nothing may change their graphs."""

from __future__ import annotations

from functools import cache

from qvit_deploy.frontend import Source, load_model


@cache
def demo(name: str) -> Source:
    return load_model(f"demo:{name}")
