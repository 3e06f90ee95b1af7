"""How many threads a runtime gets on the CPU."""

from __future__ import annotations

import os


def wanted_threads(asked: int) -> int:
    """`asked`, or what `OMP_NUM_THREADS` says where that is 0, or 0, which runtimes take for one per core.

    torch and NumPy read that variable too: processes side by side, each with a thread per core, spend more time waiting
    for each other than computing.
    """
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return asked or (int(outermost) if outermost.isdecimal() else 0)
