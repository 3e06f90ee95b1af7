"""Imports run one way (design, section 1), and the light half needs neither torch nor timm."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "qvit_deploy"

LAYERS = (
    {"errors", "progress"},
    {"manifest", "recipe"},
    {"graph"},
    {"execute", "frontend"},
    {"data", "calibrate", "relevance"},
    {"quantize", "allocate"},
    {"emit"},
    {"targets", "bench"},
    {"bundle", "report"},
    {"stored"},
    {"stage_cache"},
    {
        "inputs",
        "folding",
        "analysis",
        "pipeline",
        "evaluate",
        "describe",
        "model_files",
        "engine_files",
        "build",
        "benchmark",
        "site_models",
        "site_emission",
        "site_times",
    },
    {"exact"},
    {"explain"},
    {"explain_drift"},
    {"explain_tree"},
    {"relp_session"},
    {"sweep"},
    {"cli"},
    {"__main__"},
)
"""Lowest first. A module imports from its own layer, from its own folder and from what is below."""

HEAVY = ("torch", "timm", "scipy", "matplotlib")


def height(module: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if module in names)


def imports(path: Path) -> Iterator[str]:
    """The parts of qvit_deploy that the file imports anywhere in it, as their first name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = (
                [node.module or ""] if node.module != "qvit_deploy" else [f"qvit_deploy.{a.name}" for a in node.names]
            )
        for name in names:
            first, _, rest = name.partition(".")
            if first == "qvit_deploy" and rest and rest != "__version__":
                yield rest.partition(".")[0]


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_part_has_a_layer() -> None:
    parts = {part(p) for p in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts <= set().union(*LAYERS)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_upward(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        assert set(imports(path)) == {"pipeline"}  # `qvit_deploy.compile`, on demand
        return
    upward = {name for name in imports(path) if height(name) > height(own)}
    assert not upward, f"{path.relative_to(PACKAGE)} imports {upward}"


@pytest.mark.parametrize(
    "module",
    [
        "qvit_deploy", "qvit_deploy.cli", "qvit_deploy.describe", "qvit_deploy.evaluate", "qvit_deploy.build",
        "qvit_deploy.engine_files",
        "qvit_deploy.targets.engine_builder", "qvit_deploy.targets.engine_runtime", "qvit_deploy.allocate.latency",
        "qvit_deploy.benchmark", "qvit_deploy.site_models",
        "qvit_deploy.site_times", "qvit_deploy.bench.worker", "qvit_deploy.emit.packed",
        "qvit_deploy.targets.libqvit", "qvit_deploy.targets.plugin_build", "qvit_deploy.emit.local_functions",
    ],
)  # fmt: skip
def test_the_light_half_does_without_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted(m for m in {HEAVY} if m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
