"""The light half, which runs, measures and builds what was compiled elsewhere, needs neither torch nor timm.

What may import what is the contract of import-linter in pyproject.toml, which `make lint` keeps.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "timm", "scipy", "matplotlib")

LIGHT = (
    "", "cli", "commands.inspect", "commands.evaluate", "commands.build", "commands.bench",
    "commands.check", "commands.compile", "commands.sweep",
    "artifacts.latency_table", "bench.sites.models", "bench.sites.times", "bench.worker", "emit.local_functions",
    "targets.registry", "targets.tensorrt.engine.builder.builder_process",
    "targets.tensorrt.engine.builder.plugin_build", "targets.tensorrt.engine.files",
    "targets.tensorrt.engine.run.engine_runner", "targets.tensorrt.packed.packing",
)  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_half_does_without_torch(module: str) -> None:
    name = f"qvit_deploy.{module}".rstrip(".")
    code = f"import sys, {name}; print(sorted(m for m in {HEAVY} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
