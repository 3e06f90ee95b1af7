"""ARCHITECTURE.md and CONTRIBUTING.md name only what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qvit_deploy.recipe import tomllib
from tests.support.places import REPOSITORY

GUIDES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
PLACE = re.compile(r"`([\w/.]+(?:\.py|\.md|\.toml|/))`|\]\(([\w/.]+)\)")
CONTAINERS = ("", "qvit_deploy", "qvit_deploy/graph", "tools")


@pytest.mark.parametrize("guide", GUIDES)
def test_the_places_that_a_guide_names_exist(guide: str) -> None:
    text = (REPOSITORY / guide).read_text(encoding="utf-8")
    places = [a or b for a, b in PLACE.findall(text)]
    places = [p for p in places if "NAME" not in p and p not in ("verification.py", "target.py", "registry.py")]
    missing = [p for p in places if not any((REPOSITORY / c / p).exists() for c in CONTAINERS)]
    assert not missing


def test_the_architecture_lists_every_room() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    package = REPOSITORY / "qvit_deploy"
    rooms = {f"`{p.name}/`" for p in package.iterdir() if (p / "__init__.py").exists()}
    ground = {f"`{p.name}`" for p in package.glob("*.py") if not p.name.startswith("__")}
    assert not {name for name in rooms | ground if name not in text}


def test_the_layers_of_the_contract_are_the_rooms() -> None:
    contract = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = " ".join(contract["contracts"][0]["layers"]).replace(":", " ").split()
    package = REPOSITORY / "qvit_deploy"
    parts = {_part(p) for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert {name.partition(".")[2] for name in layers} == parts - {"__init__"}


def _part(path: Path) -> str:
    return path.stem
