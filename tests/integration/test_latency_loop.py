"""A latency table of a shipped model: measured by `bench-sites`, obeyed by `compile --max-latency`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Command

pytestmark = pytest.mark.slow

FIXED = ("patch_embed.proj", "head")
"""First and last site: 8 bits whatever the budget."""


def compiled(qvit: Command, out: Path, *flags: object) -> dict[str, str]:
    """Width of every site."""
    done = qvit("compile", "demo:vit", "-o", out, "--effort", "fast", "--json", *flags)
    assert done.code == 0, done.err
    manifest: dict[str, Any] = json.loads(done.out)
    return {s["name"]: f"w{s['w_bits']}a{s['a_bits']}" for s in manifest["sites"]}


def test_measured_times_decide_the_widths(qvit: Command, tmp_path: Path) -> None:
    before = compiled(qvit, tmp_path / "before", "--mean-bits", 5)
    table = tmp_path / "table.json"
    # Times are obeyed whether they are exact or not; those of few runs differ between widths as well.
    done = qvit("bench-sites", tmp_path / "before", "-o", table, "--processes", 1, "--iterations", 24)
    assert done.code == 0, done.err
    times: dict[str, dict[str, float]] = json.loads(table.read_text())["sites"]
    assert set(times) == set(before) and all(set(t) == {"w4a4", "w6a6", "w8a8"} for t in times.values())

    fastest = {name: "w8a8" if name in FIXED else min(t, key=t.__getitem__) for name, t in times.items()}
    least = sum(times[name][width] for name, width in fastest.items())
    budget = ("--latency-table", table, "--max-latency")
    after = compiled(qvit, tmp_path / "after", *budget, 1.0001 * least)
    # Widths that differ by less than the budget's slack may be exchanged.
    assert sum(times[name][width] for name, width in after.items()) <= 1.0001 * least
    assert sum(after[name] == width for name, width in fastest.items()) >= len(fastest) - 1
    assert after != before and sum(times[name][width] for name, width in before.items()) > 1.0001 * least

    refused = qvit("compile", "demo:vit", "-o", tmp_path / "never", "--effort", "fast", *budget, 0.99 * least)
    assert refused.code == 2 and len(refused.errors) == 1 and not (tmp_path / "never").exists()
    assert "cannot be met: the smallest possible is" in refused.errors[0]
