"""Processes of our own for libraries that can end theirs without an exception: what they are started with, how they
ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

TAIL_LINES = 12
"""Lines of the process's output that are shown when it dies."""


def environment() -> dict[str, str]:
    """Returns the user's environment with this package first on PYTHONPATH, and its other entries absolute."""
    paths = [str(Path(__file__).parents[2]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in paths)}


def ended(code: int) -> str:
    """Returns how a process ended, in words, by its exit code."""
    if code >= 0:
        return f"ended with exit code {code} and no answer"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def tail(output: bytes) -> str:
    """Returns the last lines of a process's output, joined to one line."""
    lines = [" ".join(line.split()) for line in output.decode(errors="replace").splitlines()]
    return " | ".join([line for line in lines if line][-TAIL_LINES:]) or "nothing"
