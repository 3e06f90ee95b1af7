"""Says which CPU runtimes run on, and how many threads they get."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def thread_count(requested: int) -> int:
    """Returns `requested` if it is not 0, else `OMP_NUM_THREADS` if it is set, else 0: one per core to runtimes.

    torch and NumPy read that variable too: processes side by side, each with a thread per core, spend more time waiting
    for each other than computing.
    """
    outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return requested or (int(outermost) if outermost.isdecimal() else 0)


def cpu_model(root: Path = Path("/")) -> str:
    """Returns the model's name with family and model number, because virtual machines name many models alike.

    Args:
        root: of the file system; another one for a recorded machine.
    """
    try:
        cpuinfo = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    keys = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    model = " ".join(f"{k} {fields[k]}" if k != "model name" else fields[k] for k in keys if fields.get(k))
    return model or platform.processor() or platform.machine()
