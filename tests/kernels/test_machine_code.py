"""The machine code that nvcc makes of the kernels, where it is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.places import REPOSITORY

ROOT = REPOSITORY
SCRIPT = ROOT / "kernels" / "tests" / "check_sass.py"


# One by one: each takes the compiler half a minute, and two processes can share them.
@pytest.mark.slow
@pytest.mark.parametrize("sm", [75, 80, 86, 87, 89, 90, 110, 120])
def test_machine_code_of_every_architecture(sm: int) -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--sm", str(sm)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 2:
        pytest.skip(f"the machine code is not checked: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr[-4000:]
    native = f"[{sm}]" if sm in (80, 86, 87, 89) else "none"
    assert f"native 4-bit products on: {native}; 20 kernels, 0 problems" in done.stdout
