"""Reads the energy counters of the machine, where it has some and lets users read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Rapl:
    """The energy counters of the processor packages (Linux powercap, `intel-rapl:N`, on AMD too).

    They count microjoules and wrap around; call `joules` more often than that takes (minutes).

    Attributes:
        packages: folder of each package, and the largest value of its counter.
    """

    packages: tuple[tuple[Path, int], ...]
    name: str = "RAPL packages"

    def __post_init__(self) -> None:
        self._last = [self._read(p) for p, _ in self.packages]

    def joules(self) -> float:
        """Returns the joules used since the last call, or since the meter was opened."""
        used = 0
        for i, (path, largest) in enumerate(self.packages):
            now = self._read(path)
            used += now - self._last[i] + (largest if now < self._last[i] else 0)
            self._last[i] = now
        return used / 1e6

    @staticmethod
    def _read(package: Path) -> int:
        return int((package / "energy_uj").read_text())


def open_meter(root: Path = POWERCAP) -> Rapl | None:
    """Returns the meter of this machine; None when it has none or only root may read it."""
    packages = []
    try:
        for package in sorted(root.glob("intel-rapl:*")):
            if package.name.count(":") == 1:  # intel-rapl:0:0 is a part of intel-rapl:0
                int((package / "energy_uj").read_text())
                packages.append((package, int((package / "max_energy_range_uj").read_text())))
    except (OSError, ValueError):
        return None
    return Rapl(tuple(packages)) if packages else None
