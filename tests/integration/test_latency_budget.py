"""A latency table on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Command, Inputs

SITES = ("stem", "patch", "attn.q", "attn.k", "attn.v", "attn.proj", "fc1", "fc2", "head")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """8 bits take a millisecond, 4 bits half of it; fc1 is ten times slower and no faster at 4 bits."""
    times = {name: {"w4a4": 0.5, "w8a8": 1.0} for name in SITES} | {"fc1": {"w4a4": 10.0, "w8a8": 10.0}}
    path = tmp_path / "latency.json"
    tree = {
        "schema": "qvit-deploy/latency/1", "device": "a [board]", "fingerprint": "f", "batch_size": 1, "sites": times,
    }  # fmt: skip
    path.write_text(json.dumps(tree))
    return path


def compiled(qvit: Command, inputs: Inputs, out: Path, *flags: object) -> dict[str, Any]:
    done = qvit(*inputs.arguments(out, "--bits", "4,8", "--json", *flags))
    assert done.code == 0, done.err
    manifest: dict[str, Any] = json.loads(done.out)
    return manifest


def test_a_budget_in_milliseconds_is_kept(qvit: Command, inputs: Inputs, tmp_path: Path, table: Path) -> None:
    flags = ("--latency-table", table, "--max-latency", 15.4)
    manifest = compiled(qvit, inputs, tmp_path / "b", *flags)
    bits = {s["name"]: s["w_bits"] for s in manifest["sites"]}
    # 10 for fc1, 2 for the first and the last: 3.4 ms for six sites leave all of them at 4 bits.
    assert [name for name, b in bits.items() if b == 8 and name not in ("stem", "head")] == ["fc1"]
    assert manifest["latency"] == {"device": "a [board]", "fingerprint": "f", "batch_size": 1, "sites_ms": 15.0}


def test_a_budget_nothing_keeps_names_the_smallest(qvit: Command, inputs: Inputs, tmp_path: Path, table: Path) -> None:
    done = qvit(*inputs.arguments(tmp_path / "b", "--bits", "4,8", "--latency-table", table, "--max-latency", 5))
    assert done.code == 2 and "5 ms latency cannot be met: the smallest possible is 15 ms" in done.errors[0]


def test_without_a_budget_the_table_only_reports(qvit: Command, inputs: Inputs, tmp_path: Path, table: Path) -> None:
    manifest = compiled(qvit, inputs, tmp_path / "b", "--latency-table", table, "--uniform", "w4a4")
    assert manifest["latency"]["sites_ms"] == 15
    done = qvit(*inputs.arguments(tmp_path / "c", "--bits", "4,8", "--latency-table", table))
    assert "ms in the sites on a [board]" in done.out


def test_a_width_or_a_site_the_table_lacks(qvit: Command, inputs: Inputs, tmp_path: Path, table: Path) -> None:
    done = qvit(*inputs.arguments(tmp_path / "b", "--bits", "4,6,8", "--latency-table", table, "--max-latency", 20))
    assert done.code == 2 and "'patch' lacks w6a6" in done.errors[0] and str(table) in done.errors[0]
    tree = json.loads(table.read_text())
    del tree["sites"]["fc2"]
    table.write_text(json.dumps(tree))
    done = qvit(*inputs.arguments(tmp_path / "b", "--bits", "4,8", "--latency-table", table, "--max-latency", 20))
    assert done.code == 2 and "no site 'fc2'" in done.errors[0] and str(table) in done.errors[0]
