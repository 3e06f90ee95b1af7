"""The CPU that runtimes run on: which it is, and how many threads they get."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def wanted_threads(asked: int) -> int:
    """`asked`, or what `OMP_NUM_THREADS` says where that is 0, or 0, which runtimes take for one per core.

    torch and NumPy read that variable too: processes side by side, each with a thread per core, spend more time waiting
    for each other than computing.
    """
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return asked or (int(outermost) if outermost.isdecimal() else 0)


def cpu_model(root: Path = Path("/")) -> str:
    """Model and, because virtual machines name many models alike, family and model number."""
    try:
        cpuinfo = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    keys = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    found = " ".join(f"{k} {fields[k]}" if k != "model name" else fields[k] for k in keys if fields.get(k))
    return found or platform.processor() or platform.machine()
