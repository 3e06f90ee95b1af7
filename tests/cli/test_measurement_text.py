"""A measurement as bench prints it."""

from __future__ import annotations

from typing import Any

import pytest

from qvit_deploy.artifacts.measurement import Measurement
from qvit_deploy.cli.measurement_text import SHOWN, print_measurement
from tests.support.artifacts.measurements import subject, tree

BLOCKS = [[2.0, 2.0], [2.0, 2.0]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "120")

    def lines(**more: Any) -> list[str]:
        print_measurement(Measurement.model_validate(tree("new", BLOCKS, **more)))
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def test_one_file_is_a_column_and_a_line_of_conditions(printed: Any) -> None:
    lines = printed(load_ms=3.0)
    assert lines[0].split() == ["new.onnx"]
    assert "p50         2.000 ms (1.980 to 2.020)" in lines
    assert [line.split() for line in lines if line.startswith("throughput")] == [["throughput", "500.0", "images/s"]]
    assert [line.split() for line in lines if line.startswith("load")] == [["load", "3", "ms"]]
    assert [line.split() for line in lines if line.startswith("runs")] == [["runs", "600", "in", "2", "processes"]]
    assert not any(line.startswith(("peak memory", "GPU memory")) for line in lines)
    assert lines[-1] == "batch 1, threads 1, CPU 1; onnxruntime 1.32.0; a cpu"


def test_two_files_stand_side_by_side_with_their_ratio(printed: Any) -> None:
    other = subject("old[1]", [[4.0, 4.0], [4.0, 4.0]], peak_memory_bytes=3_000_000)
    lines = printed(against=other, ratio={"p50": 0.5, "interval95": [0.48, 0.52]})
    assert lines[0].split() == ["new.onnx", "old[1].onnx"]
    assert "new.onnx takes 0.500 of the time of old[1].onnx (95 % interval 0.480 to 0.520): 2.00x" in lines
    assert [line.split() for line in lines if line.startswith("peak")] == [["peak", "memory", "3.00", "MB"]]


def test_accuracy_energy_and_processes_that_did_not_settle_are_sentences(printed: Any) -> None:
    restless = [{"blocks_ms": [2.0, 2.0], "runs": 300, "stable": stable} for stable in (False, True)]
    lines = printed(
        quality={"agreement": 0.975, "n": 40},
        energy={"meter": "RAPL", "joules_per_run": 0.0125, "watts": 6.25},
        processes=restless,
    )
    assert lines[-4:-1] == [
        "new.onnx: agreement with float 97.5% (n=40)",
        "12.50 mJ a run, 6.2 W (RAPL)",
        "new.onnx: not settled after the warm-up in 1 processes",
    ]


def test_a_profile_lists_the_largest_parts_and_the_slowest_sites(printed: Any) -> None:
    sites = [{"name": f"s{i}", "product_ms": 0.1 * i, "quantize_ms": 0.05} for i in range(1, 5)]
    outside = {f"Op{i}": 0.01 * i for i in range(1, 9)}
    lines = printed(profile={"sites": sites, "outside_ms": outside, "total_ms": 2.0})
    rows = lines[lines.index("profiled") + 2 : lines.index("profiled") + 3 + SHOWN]
    assert [row.rsplit(None, 2) for row in rows[:3]] == [
        ["products of the sites", "1.000", "50%"],
        ["quantizing their inputs", "0.200", "10%"],
        ["Op8", "0.080", "4%"],
    ]
    assert rows[-1].rsplit(None, 2) == ["the rest", "0.030", "2%"]
    assert "slowest sites: s4 0.450 ms, s3 0.350 ms, s2 0.250 ms" in lines
