from __future__ import annotations

from pathlib import Path

from qvit_deploy.bench.device.energy import open_meter


def package(root: Path, name: str, energy: int | str, largest: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    return folder


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 100_000)
    package(tmp_path, "intel-rapl:1", 50_000)
    package(tmp_path, "intel-rapl:0:0", 7)
    meter = open_meter(tmp_path)
    assert meter is not None
    package(tmp_path, "intel-rapl:0", 400_000)
    package(tmp_path, "intel-rapl:1", 150_000)
    package(tmp_path, "intel-rapl:0:0", 900_000)
    assert meter.joules() == 0.4 and meter.joules() == 0


def test_a_counter_wraps_around(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 900_000)
    meter = open_meter(tmp_path)
    assert meter is not None
    package(tmp_path, "intel-rapl:0", 100_000)
    assert meter.joules() == 0.2


def test_no_meter(tmp_path: Path) -> None:
    assert open_meter(tmp_path) is None and open_meter(tmp_path / "none") is None
    package(tmp_path, "intel-rapl:0", "denied")
    assert open_meter(tmp_path) is None
