"""What the README promises: the commands of `make demo`, its bundle, and that its text is up to date."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qvit_deploy.cli import app
from qvit_deploy.commands.evaluate import evaluate
from tests.support.places import REPOSITORY

ROOT = REPOSITORY


def _commands(target: str) -> list[list[str]]:
    """The qvit-deploy commands of a Makefile target, as argument lists."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    body = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
    assert body is not None
    lines = [line.split() for line in body[1].splitlines()]
    return [line[1:] for line in lines if line[0].endswith("qvit-deploy")]


def _run(arguments: list[str], folder: Path) -> str:
    command = [sys.executable, "-m", "qvit_deploy", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """(folder, what each command of `make demo` printed)."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, [_run(arguments, folder) for arguments in _commands("demo")]


@pytest.mark.slow  # `make demo`, which CI runs too
def test_demo_compiles_evaluates_and_inspects(demo: tuple[Path, list[str]]) -> None:
    _, (compiled, evaluated, inspected) = demo
    assert re.search(r"verified +[\d,]+ codes equal", compiled)
    assert re.search(r"top-1 [89]\d\.\d% \(float [89]\d\.\d%\), n=1000", evaluated)
    assert "blocks.0.attn.qkv" in inspected and "w8a8" in inspected


@pytest.mark.slow
def test_demo_loses_little(demo: tuple[Path, list[str]]) -> None:
    folder, _ = demo
    result = evaluate(folder / "out" / "demo-vit", "demo:fashion-mnist")
    assert result.n == 1000 and result.top1 is not None and result.float_top1 is not None
    assert result.top1 >= result.float_top1 - 0.02


DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]+)")


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    """Command -> the flags its help names."""
    commands = ("compile", "eval", "inspect", "build", "build-plugin", "bench", "check", "relp", "sweep")
    return {command: set(FLAG.findall(CliRunner().invoke(app, [command, "--help"]).output)) for command in commands}


def test_readme_names_only_flags_that_exist(flags: dict[str, set[str]]) -> None:
    text = re.sub(r"`python -m\s+tools[^`]*`", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(FLAG.findall(text)) <= set().union(*flags.values())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_have_the_flags_they_are_shown_with(document: Path, flags: dict[str, set[str]]) -> None:
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    shown = re.findall(r"qvit-deploy ([\w-]+)((?:[^`\n#]|\n {4,})*)", text)
    for command, rest in shown:
        if command in flags:
            assert set(FLAG.findall(rest)) <= flags[command], f"{document.name}: qvit-deploy {command}{rest}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_placeholders(document: Path) -> None:
    assert not re.search(r"@[A-Z]+@", document.read_text(encoding="utf-8"))


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "kernels" / "README.md"], ids=str)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8"))
    assert all((document.parent / target).exists() for target in targets)
