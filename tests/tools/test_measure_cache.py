"""tools/measure_cache.py: the figures come from bundles that are equal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_prints_a_row_for_a_demo_model() -> None:
    command = [sys.executable, "tools/measure_cache.py", "demo:vit", "--rounds", "1"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "demo:vit" in done.stdout and "MB" in done.stdout
