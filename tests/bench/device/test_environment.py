from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qvit_deploy.bench.device.environment import environment, fastest_cpus


def write(root: Path, name: str, content: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_this_machine() -> None:
    machine = environment()
    assert machine.cpu and machine.logical_cpus == os.cpu_count()
    assert machine.versions["onnxruntime"] and machine.versions["python"]
    assert list(machine.versions) == sorted(machine.versions)


def test_what_a_system_says(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name\t: A Core\ncpu family\t: 6\nmodel\t\t: 151\n")
    write(tmp_path, "proc/meminfo", "MemTotal:       8000 kB\nMemFree: 1 kB\n")
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    write(tmp_path, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "2201600\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n")
    machine = environment(tmp_path)
    assert machine.cpu == "A Core cpu family 6 model 151" and machine.memory_bytes == 8_192_000
    assert machine.board == "NVIDIA Jetson AGX Orin Developer Kit" and machine.versions["l4t"] == "36.4.3"
    assert (machine.governor, machine.max_mhz) == ("schedutil", 2201.6)


def test_nothing_is_guessed(tmp_path: Path) -> None:
    machine = environment(tmp_path)
    assert machine.memory_bytes is machine.governor is machine.max_mhz is machine.board is machine.power_mode is None
    assert "l4t" not in machine.versions


def test_arm_cores_have_no_model_name(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n")
    assert environment(tmp_path).cpu == "CPU implementer 0x41 CPU part 0xd42"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin")
def test_the_fastest_cpus_are_taken(tmp_path: Path) -> None:
    """Of this machine's own, whose clocks are read from a folder."""
    allowed = sorted(os.sched_getaffinity(0))
    assert fastest_cpus(1, tmp_path) == (allowed[-1],) and fastest_cpus(len(allowed), tmp_path) == tuple(allowed)
    assert fastest_cpus(len(allowed) + 1, tmp_path) is None
    if len(allowed) < 2:
        pytest.skip("one CPU")
    for cpu in allowed:
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq", str(1000 - cpu))
    assert fastest_cpus(1, tmp_path) == (allowed[0],) and fastest_cpus(2, tmp_path) == tuple(allowed[:2])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin")
def test_only_allowed_cpus_are_taken() -> None:
    """In a process that may use one."""
    last = max(os.sched_getaffinity(0))
    code = "import os; from qvit_deploy.bench.device.environment import fastest_cpus as f; print(f(1), f(2))"
    pinned = f"import os; os.sched_setaffinity(0, [{last}]); {code}"
    done = subprocess.run([sys.executable, "-c", pinned], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"({last},) None"
