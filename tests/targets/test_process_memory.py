"""The peak memory of this process, and of no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.targets.process_memory import peak_memory

MEGABYTE = 1 << 20
ASK = "from qvit_deploy.targets.process_memory import peak_memory; print(peak_memory())"


def test_it_grows_with_what_was_touched_and_stays() -> None:
    before = peak_memory()
    assert before is not None
    np.ones(300 * MEGABYTE, np.uint8)
    after = peak_memory()
    assert after is not None and after >= before
    assert after > 300 * MEGABYTE and peak_memory() == after


def test_a_small_child_of_a_large_process_is_small() -> None:
    large = np.ones(400 * MEGABYTE, np.uint8)
    child = int(subprocess.run([sys.executable, "-c", ASK], capture_output=True, check=True).stdout)
    assert child < 200 * MEGABYTE < large.nbytes


@pytest.mark.skipif(sys.platform == "darwin", reason="asks getrusage")
def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert peak_memory(tmp_path / "none") is None
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t  10 kB\n")
    assert peak_memory(tmp_path / "status") is None
    (tmp_path / "status").write_text("VmHWM:\t  10 kB\n")
    assert peak_memory(tmp_path / "status") == 10_240
