"""Lines in the formats of the Jetson Linux developer guide, with made-up numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.bench.device.telemetry import Clock, clocks, power_mode, tegra_release, tegrastats, throttling

NANO = (  # Orin Nano, JetPack 6
    "11-23-2026 10:00:01 RAM 3150/7620MB (lfb 4x2MB) SWAP 0/3810MB (cached 0MB) "
    "CPU [1%@729,60%@1510,0%@729,0%@729,off,off] EMC_FREQ 61%@2133 GR3D_FREQ 97%@[624] NVDEC off NVJPG off VIC off "
    "OFA off APE 200 cpu@52.843C soc2@51.968C soc0@50.625C gpu@53.687C tj@53.843C soc1@51.687C "
    "VDD_IN 9913mW/9922mW VDD_CPU_GPU_CV 4598mW/4598mW VDD_SOC 2238mW/2237mW"
)
AGX = (  # AGX Orin, JetPack 5: no load at the clocks of engines, sensors that are off, rails not connected
    "RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) "
    "CPU [0%@729,0%@729,91%@2201,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 12%@[1300,1300] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C GPU@-256C tj@44.343C "
    "VDD_GPU_SOC 2340mW/2340mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW"
)
THOR = (  # AGX Thor, JetPack 7.0: no GPU load, three clusters
    "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,8%@972,0%@972] EMC_FREQ 0%@2750 "
    "GR3D_FREQ @[314,314,0] NVENC0_FREQ @314 VIC off OFA_FREQ @315 PVA0_FREQ off APE 300 cpu@37.343C tj@38.875C "
    "soc012@37.468C gpu@38.875C soc345@37.406C VDD_GPU 1962mW/1962mW VDD_CPU_SOC_MSS 5887mW/5887mW "
    "VIN_SYS_5V0 5635mW/5635mW VIN 19780mW/19780mW"
)
THOR_72 = (  # AGX Thor, JetPack 7.2: present and highest temperatures, three powers, one clock for all cores
    "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 "
    "GR3D_FREQ 87%@[1574,1574,1574] cpu@49.75C/49.75C tj@51.218/51.218C gpu@51.218C/60.5C VDD_GPU 6330mW/6330mW/6330mW "
    "VIN 28906mW/14453mW/28906mW"
)


def test_orin_nano() -> None:
    (sample,), unread = tegrastats(NANO)
    assert unread == 0 and sample.time == "11-23-2026 10:00:01"
    assert (sample.ram_mb, sample.ram_total_mb) == (3150, 7620)
    assert sample.cpus == ((1, 729), (60, 1510), (0, 729), (0, 729), None, None)
    assert (sample.gpu_load, sample.gpu_mhz, sample.emc_mhz) == (97, (624,), 2133)
    assert sample.celsius["tj"] == 53.843 and len(sample.celsius) == 6
    assert sample.milliwatts == {"VDD_IN": 9913, "VDD_CPU_GPU_CV": 4598, "VDD_SOC": 2238}
    assert sample.input_milliwatts == 9913


def test_agx_orin() -> None:
    (sample,), _ = tegrastats(AGX)
    assert sample.time is None and len(sample.cpus) == 12 and sample.gpu_mhz == (1300, 1300)
    assert sample.celsius == {"cpu": 44.562, "tboard": 32.0, "soc2": 40.093, "tj": 44.343}
    assert "NC" not in sample.milliwatts
    assert sample.input_milliwatts == 2340 + 390 + 4025


def test_thor() -> None:
    (sample,), _ = tegrastats(THOR)
    assert sample.gpu_load is None and sample.gpu_mhz == (314, 314, 0) and sample.emc_mhz == 2750
    assert sample.cpus == ((0, 972), (8, 972), (0, 972))
    assert sample.celsius["soc345"] == 37.406 and sample.input_milliwatts == 19780


def test_thor_with_jetpack_7_2() -> None:
    (sample,), _ = tegrastats(THOR_72)
    assert sample.cpus == ((0, 2601), (5, 2601), None)
    assert sample.gpu_load == 87 and sample.emc_mhz == 4266
    assert sample.celsius == {"cpu": 49.75, "tj": 51.218, "gpu": 51.218}
    assert sample.milliwatts == {"VDD_GPU": 6330, "VIN": 28906}


@pytest.mark.parametrize(
    ("gpu", "load", "mhz"),
    [("GR3D_FREQ 5%", 5, ()), ("GR3D_FREQ 39%@76", 39, (76,)), ("GR3D_FREQ 0%@[0,0]", 0, (0, 0)), ("APE 1", None, ())],
)
def test_gpu_fields(gpu: str, load: int | None, mhz: tuple[int, ...]) -> None:
    (sample,), _ = tegrastats(f"RAM 1/2MB (lfb 1x1MB) CPU [0%@1] {gpu} cpu@1C")
    assert (sample.gpu_load, sample.gpu_mhz) == (load, mhz)


@pytest.mark.parametrize("line", [NANO, AGX, THOR, THOR_72])
@given(share=st.floats(0, 1))
def test_a_line_that_was_cut_off_says_nothing_wrong(line: str, share: float) -> None:
    """Whatever is read from the beginning of a line is also in the whole line."""
    (whole,), _ = tegrastats(line)
    readings, unread = tegrastats(line[: int(share * len(line))])
    assert len(readings) + unread <= 1
    for sample in readings:
        assert sample.ram_total_mb == whole.ram_total_mb
        assert [c and c[0] for c in sample.cpus] in ([c and c[0] for c in whole.cpus], [])
        assert all(c is None or c[1] is None or c == w for c, w in zip(sample.cpus, whole.cpus, strict=False))
        assert sample.gpu_load in (whole.gpu_load, None) and sample.gpu_mhz in (whole.gpu_mhz, ())
        assert sample.emc_mhz in (whole.emc_mhz, None)
        assert set(sample.celsius.items()) <= set(whole.celsius.items())
        assert set(sample.milliwatts.items()) <= set(whole.milliwatts.items())


def test_other_lines_are_counted() -> None:
    samples, unread = tegrastats(f"{NANO}\n\nsudo: a password is required\n{NANO[:25]}\n{THOR}")
    assert len(samples) == 2 and unread == 2


def test_release_and_power_mode() -> None:
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025"
    assert tegra_release(release) == "36.4.3"
    assert tegra_release("# R38 (release), REVISION: 2.0, GCID: 1") == "38.2.0"
    assert tegra_release("Ubuntu") is None
    assert power_mode("NV Power Mode: MODE_30W\n2\n") == "MODE_30W"
    assert power_mode("NVPM WARN: fan mode is not set\nNV Power Mode: MAXN\n0") == "MAXN"
    assert power_mode("Error: run as root") is None


SHOWN = """SOC family:tegra234  Machine:NVIDIA Jetson AGX Orin Developer Kit
Online CPUs: 0-2
cpu0:  Online=1 Governor=schedutil MinFreq=2201600 MaxFreq=2201600 CurrentFreq=2201600 IdleStates: WFI=0 c7=0
cpu1: Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=729600 IdleStates: WFI=1 c7=1
cpu2:  Online=0 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=729600
GPU MinFreq=1300500000 MaxFreq=1300500000 CurrentFreq=1300500000
EMC MinFreq=204000000 MaxFreq=3199000000 CurrentFreq=2133000000 FreqOverride=0
FAN Dynamic Speed Control=nvfancontrol hwmon0_pwm1=66
NV Power Mode: MAXN
"""


def test_clocks() -> None:
    frequencies = clocks(SHOWN)
    assert set(frequencies) == {"cpu0", "cpu1", "GPU", "EMC"}
    assert frequencies["cpu0"] == Clock(2201.6, 2201.6, 2201.6) and frequencies["cpu0"].locked
    assert not frequencies["cpu1"].locked and frequencies["GPU"].most == 1300.5


def test_throttling_is_said() -> None:
    locked = {**clocks(SHOWN), "cpu1": Clock(1510.4, 1510.4, 1510.4), "GPU": Clock(624.75, 624.75, 624.75)}
    samples, _ = tegrastats(NANO)
    assert throttling(samples, locked, {"oc1": (0, 0)}) == []
    hot, _ = tegrastats(NANO.replace("tj@53.843C", "tj@96.5C"))
    assert "96.5 C" in throttling(hot, locked, {})[0]
    slow, _ = tegrastats(NANO.replace("97%@[624]", "97%@[510]").replace("60%@1510", "60%@1190"))
    gpu, cpu = throttling([*samples, *slow], locked, {})
    assert "510 MHz" in gpu and "1 of 2" in gpu and cpu.startswith("cpu1 fell to 1190")
    assert throttling(slow, {"GPU": Clock(306, 624.75, 510)}, {}) == []
    assert throttling([], {}, {"oc3": (2, 9)}) == ["oc3 counted 7 over-current events"]
    idle, _ = tegrastats(NANO.replace("97%@[624]", "0%@[306]"))
    assert throttling(idle, locked, {}) == []
