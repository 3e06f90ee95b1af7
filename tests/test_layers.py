"""The light half, which runs, measures and builds what was compiled elsewhere, needs neither torch nor timm.

What may import what is the contract of import-linter in pyproject.toml, which `make lint` keeps.
"""

from __future__ import annotations

import json
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


IMPORTS = """
import importlib, json, sys
heavy, modules = json.loads(sys.argv[1])
loaded = {}
for module in modules:
    for name in [n for n in sys.modules if n.partition(".")[0] == "qvit_deploy"]:
        del sys.modules[name]
    before = set(sys.modules)
    importlib.import_module(f"qvit_deploy.{module}".rstrip("."))
    loaded[module] = sorted(set(heavy) & (set(sys.modules) - before))
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Module -> what it brings of `HEAVY`. One process imports them all, each as if it were the first."""
    command = [sys.executable, "-c", IMPORTS, json.dumps([HEAVY, LIGHT])]
    heavy: dict[str, list[str]] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return heavy


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_half_does_without_torch(loaded: dict[str, list[str]], module: str) -> None:
    assert loaded[module] == []
