"""Parses what a Jetson reports (tegrastats, nvpmodel, jetson_clocks, its release) and finds signs of throttling.

The formats are those of NVIDIA's Jetson Linux developer guide ("Tegrastats Utility", "Platform Power and Performance")
for JetPack 5 and 6 (Orin) and 7 (Orin and Thor). They differ: Thor gives no GPU load but three clocks, later releases
write two temperatures and three powers a sensor, and fields of units that a module lacks are absent. So every field is
optional, and only complete ones are read: a line that was cut off gives what came before the cut.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\](?:@(\d+)(?=\s))?")
_CORE = re.compile(r"(\d+)%(?:@(\d+))?")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d+)%)?(?:@(?:\[([\d,]+)\]|(\d+)(?=\s)))?")
_EMC = re.compile(r"\bEMC_FREQ (?:\d+%)?@(\d+)(?=\s)")
_TEMPERATURE = re.compile(r"\b(\w+)@(-?\d+(?:\.\d+)?)C?(?:/-?\d+(?:\.\d+)?)?C")
_POWER = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)mW")

OFF = -256.0
"""The temperature, Celsius, that a sensor reports when its unit is powered down."""

TOTAL_RAILS = ("VIN", "VDD_IN")
"""Rails that measure the whole module, where there is one."""
PARTIAL_RAILS = ("VDD_GPU_SOC", "VDD_CPU_CV", "VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")
"""Rails that add up to the module elsewhere (AGX Orin, Thor); others are branches of these."""

HOT = 95.0
"""Junction temperature, Celsius, from which Jetson Orin and Thor may lower their clocks."""
BUSY_PERCENT, SLOWED_SHARE = 50, 0.95
"""A unit loaded this many percent that runs below this share of its locked clock was slowed down."""


@dataclass(frozen=True)
class Sample:
    """One line of tegrastats.

    Attributes:
        time: the date and time in front of the line, as written.
        ram_mb, ram_total_mb: used and all memory; the GPU's is the same.
        cpus: (load in percent, MHz) of every core; None for one that is off, MHz None where it is not given.
        gpu_load: percent; None on Thor.
        gpu_mhz: one clock per cluster.
        celsius: by sensor, lower case; sensors that are off are left out.
        milliwatts: present power by rail.
    """

    time: str | None
    ram_mb: int
    ram_total_mb: int
    cpus: tuple[tuple[int, int | None] | None, ...] = ()
    gpu_load: int | None = None
    gpu_mhz: tuple[int, ...] = ()
    emc_mhz: int | None = None
    celsius: Mapping[str, float] = field(default_factory=dict)
    milliwatts: Mapping[str, int] = field(default_factory=dict)

    @property
    def input_milliwatts(self) -> int | None:
        """Returns the power of the whole module, milliwatts; None when its rails are unknown."""
        for rail in TOTAL_RAILS:
            if rail in self.milliwatts:
                return self.milliwatts[rail]
        parts = [self.milliwatts[r] for r in PARTIAL_RAILS if r in self.milliwatts]
        return sum(parts) if len(parts) >= 2 else None


@dataclass(frozen=True)
class Clock:
    """Bounds and present value of a clock, MHz. Bounds are equal when `jetson_clocks` has locked it."""

    least: float
    most: float
    now: float

    @property
    def locked(self) -> bool:
        """Returns whether the clock cannot change."""
        return self.least == self.most


def tegrastats(text: str) -> tuple[list[Sample], int]:
    """Parses a log; returns (samples, how many lines are not tegrastats' or end before the memory they start with)."""
    samples, unread = [], 0
    for line in text.splitlines():
        if not line.strip():
            continue
        sample = _sample(line)
        if sample is None:
            unread += 1
        else:
            samples.append(sample)
    return samples, unread


def _sample(line: str) -> Sample | None:
    ram = _RAM.search(line)
    if ram is None:
        return None
    cores, gpu, emc = _CPU.search(line), _GPU.search(line), _EMC.search(line)
    clocks = (gpu[2] or gpu[3] or "") if gpu else ""
    temperatures = {name.lower(): float(c) for name, c in _TEMPERATURE.findall(line)}
    return Sample(
        time=line[: ram.start()].strip() or None,
        ram_mb=int(ram[1]),
        ram_total_mb=int(ram[2]),
        cpus=tuple(_core(part, cores[2]) for part in cores[1].split(",")) if cores else (),
        gpu_load=int(gpu[1]) if gpu and gpu[1] else None,
        gpu_mhz=tuple(int(c) for c in clocks.split(",") if c),
        emc_mhz=int(emc[1]) if emc else None,
        celsius={name: c for name, c in temperatures.items() if c != OFF},
        milliwatts={rail: int(mw) for rail, mw in _POWER.findall(line) if rail != "NC"},
    )


def _core(text: str, shared_mhz: str | None) -> tuple[int, int | None] | None:
    match = _CORE.fullmatch(text.strip())
    if match is None:
        return None
    mhz = match[2] or shared_mhz
    return int(match[1]), int(mhz) if mhz else None


def power_mode(text: str) -> str | None:
    """Returns the name of the mode in the output of `nvpmodel -q`, e.g. `MAXN` or `MODE_30W`."""
    match = re.search(r"NV Power Mode: *(\S.*)", text)
    return match[1].strip() if match else None


def tegra_release(text: str) -> str | None:
    """Returns the L4T version in `/etc/nv_tegra_release`, e.g. `36.4.3`."""
    match = re.search(r"\bR(\d+)\b.*?REVISION: *([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None


def clocks(text: str) -> dict[str, Clock]:
    """Returns the clocks in the output of `jetson_clocks --show` by unit: `cpu0`, ..., `GPU`, `EMC`.

    Cores that are off are left out. The output gives CPUs in kHz and everything else in Hz.
    """
    by_unit = {}
    for unit, rest in re.findall(r"^\s*(\w+):? +(.*MinFreq=.*)$", text, re.MULTILINE):
        values = re.search(r"MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", rest)
        if values and "Online=0" not in rest:
            scale = 1e3 if unit.startswith("cpu") else 1e6
            by_unit[unit] = Clock(*(int(v) / scale for v in values.groups()))
    return by_unit


def throttling(
    samples: Sequence[Sample], clocks_before: Mapping[str, Clock], events: Mapping[str, tuple[int, int]]
) -> list[str]:
    """Returns signs that the device was slowed down while it measured, one line each.

    Args:
        clocks_before: clocks before the run, by unit.
        events: hardware throttling counters (`oc*_event_cnt`), before and after.
    """
    signs = [
        f"{name} counted {after - before} over-current events"
        for name, (before, after) in events.items()
        if after > before
    ]
    hottest = max((s.celsius["tj"] for s in samples if "tj" in s.celsius), default=None)
    if hottest is not None and hottest >= HOT:
        signs.append(f"junction temperature reached {hottest:.1f} C (clocks are lowered from about {HOT:.0f} C)")
    gpu = clocks_before.get("GPU")
    if gpu is not None and gpu.locked:
        # Thor does not say how busy its GPU is: there a clock of 0 means that it is off.
        busy = [
            s
            for s in samples
            if s.gpu_mhz and (s.gpu_load is None or s.gpu_load >= BUSY_PERCENT) and max(s.gpu_mhz) > 0
        ]
        slow = [s for s in busy if max(s.gpu_mhz) < SLOWED_SHARE * gpu.most]
        if slow:
            least = min(max(s.gpu_mhz) for s in slow)
            signs.append(
                f"GPU clock fell to {least} MHz of {gpu.most:.0f} locked, in {len(slow)} of {len(busy)} samples"
            )
    signs += _slow_cores(samples, clocks_before)
    return signs


def _slow_cores(samples: Sequence[Sample], clocks_before: Mapping[str, Clock]) -> list[str]:
    slow: dict[int, list[int]] = {}
    for sample in samples:
        for number, core in enumerate(sample.cpus):
            clock = clocks_before.get(f"cpu{number}")
            if core is None or core[1] is None or clock is None or not clock.locked or core[0] < BUSY_PERCENT:
                continue
            if core[1] < SLOWED_SHARE * clock.most:
                slow.setdefault(number, []).append(core[1])
    return [
        f"cpu{n} fell to {min(mhz)} MHz of {clocks_before[f'cpu{n}'].most:.0f} locked"
        for n, mhz in sorted(slow.items())
    ]
