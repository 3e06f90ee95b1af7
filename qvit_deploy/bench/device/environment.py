"""Describes the machine that measures, and says whether measurements of two machines may be compared."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from qvit_deploy.artifacts.measurement import Environment, Measurement, Settings
from qvit_deploy.bench.device.telemetry import power_mode, tegra_release
from qvit_deploy.targets.processor import cpu_model
from qvit_deploy.targets.registry import libraries
from qvit_deploy.targets.tensorrt.engine.gpu import find_gpu

COMPARED = ("machine", "cpu", "logical_cpus", "governor", "max_mhz", "board", "power_mode", "gpu", "gpu_clocks")
"""Fields of `Environment` that must agree; memory, kernel and load do not decide how fast a file runs."""

_TIMEOUT = 10


def environment(root: Path = Path("/")) -> Environment:
    """Describes this machine. What cannot be read is None, never guessed.

    Args:
        root: of the file system; another one for a recorded machine.
    """
    cpu0 = root / "sys/devices/system/cpu/cpu0/cpufreq"
    largest = _read(cpu0 / "cpuinfo_max_freq")
    board = _read(root / "proc/device-tree/model")
    release = _read(root / "etc/nv_tegra_release")
    l4t = tegra_release(release) if release else None
    mode = _output("nvpmodel", "-q") if l4t else None
    gpu, clocks = _gpu()
    versions = {name: v for name in ("qvit-deploy", *libraries(), "numpy") if (v := _version(name))}
    versions["python"] = platform.python_version()
    if l4t:
        versions["l4t"] = l4t
    return Environment(
        machine=platform.machine(),
        cpu=cpu_model(root),
        logical_cpus=os.cpu_count() or 1,
        memory_bytes=_memory(_read(root / "proc/meminfo")),
        os=f"{platform.system()} {platform.release()}",
        governor=_read(cpu0 / "scaling_governor"),
        max_mhz=None if largest is None else int(largest) / 1e3,
        board=board.rstrip("\0") if board else None,
        power_mode=power_mode(mode) if mode else None,
        gpu=gpu,
        gpu_clocks=clocks,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        versions=dict(sorted(versions.items())),
    )


def fastest_cpus(threads: int, root: Path = Path("/")) -> tuple[int, ...] | None:
    """Returns the CPUs to pin `threads` threads to, or None where the system does not pin or has fewer CPUs.

    They are the fastest of those allowed, and of these the last ones, since the first ones serve interrupts.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    clock = {c: int(_read(root / f"sys/devices/system/cpu/cpu{c}/cpufreq/cpuinfo_max_freq") or 0) for c in allowed}
    chosen = sorted(allowed, key=lambda c: (clock[c], c))[-threads:]
    return tuple(sorted(chosen)) if len(chosen) == threads else None


def differences(one: Measurement, other: Measurement) -> list[str]:
    """Returns what forbids comparing two measurements, one phrase each: `cpu: A / B`."""
    fields = [(f, getattr(one.environment, f), getattr(other.environment, f)) for f in COMPARED]
    fields += [(f, getattr(one.settings, f), getattr(other.settings, f)) for f in Settings.model_fields]
    fields += [
        (f"version of {n}", one.environment.versions.get(n), other.environment.versions.get(n))
        for n in libraries()
        if n == one.settings.runtime
    ]
    return [f"{name}: {_as_text(a)} / {_as_text(b)}" for name, a, b in fields if a != b]


def _as_text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in sorted(value.items())) or "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else "unknown" if value is None else str(value)


def _memory(meminfo: str | None) -> int | None:
    for line in (meminfo or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _gpu() -> tuple[str | None, str | None]:
    """Returns (name and driver, applied clocks) of the NVIDIA GPUs; (None, None) without any.

    On a Jetson without nvidia-smi, CUDA's driver gives the name.
    """
    query = "name,driver_version,clocks.applications.graphics,clocks.applications.memory,power.limit"
    table = _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits")
    if not table:
        gpu = find_gpu()
        return None if gpu is None else f"{gpu.name}, SM{gpu.sm}", None
    cards = [[field.strip() for field in line.split(",")] for line in table.splitlines() if line.count(",") == 4]
    names = "; ".join(f"{c[0]}, driver {c[1]}" for c in cards)
    return names or None, "; ".join(f"{c[2]}/{c[3]} MHz, {c[4]} W" for c in cards) or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None


def _output(*command: str) -> str | None:
    """Returns what a command prints; None when it does not exist or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
