"""tools/measure/cache.py: the figures come from bundles that are equal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.places import REPOSITORY

ROOT = REPOSITORY


# Four compiles: of a model that takes a second.
MODEL = "timm:vit_tiny_patch16_224?img_size=28&patch_size=7&embed_dim=32&depth=1&num_heads=2&num_classes=10"


@pytest.mark.slow
def test_it_prints_a_row_for_a_model() -> None:
    command = [sys.executable, "tools/measure/cache.py", MODEL, "--rounds", "1"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert MODEL in done.stdout and "MB" in done.stdout
