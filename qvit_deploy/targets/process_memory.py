"""Measures the memory of this process."""

from __future__ import annotations

import sys
from pathlib import Path


def peak_memory(status: Path = Path("/proc/self/status")) -> int | None:
    """Returns the largest resident memory of this process so far, bytes; None on systems that do not report it.

    Args:
        status: the file in which Linux reports it.
    """
    try:
        # Not getrusage where it can be avoided: on Linux its maximum outlives the exec that started this process.
        for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None
