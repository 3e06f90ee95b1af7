"""What breaks an image without any Docker engine noticing before its build: sources, extras, commands, names, hosts."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import string
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
import typer

from qvit_deploy.cli import app
from qvit_deploy.recipe import tomllib
from tests.support.places import REPOSITORY

ROOT = REPOSITORY
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = set(PROJECT["project"]["optional-dependencies"])
FROM_THE_BASE_IMAGE = {"PATH"}
VARIABLE = re.compile(r"\$(?:\{(\w+)[^}]*\}|(\w+))")


@dataclass(frozen=True)
class Instruction:
    """One line of a Dockerfile, its continuations joined: `flags` are its --name=value, `value` all that follows."""

    name: str
    flags: dict[str, str]
    value: str

    @property
    def words(self) -> list[str]:
        return json.loads(self.value) if self.value.startswith("[") else shlex.split(self.value)


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    instructions: tuple[Instruction, ...]


def instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        name, rest = line.split(maxsplit=1)
        flags = {}
        while match := re.match(r"--([\w-]+)=(\S+)\s+", rest):
            flags[match[1]] = match[2]
            rest = rest[match.end() :]
        yield Instruction(name.upper(), flags, rest.strip())


def stages(text: str) -> tuple[tuple[Instruction, ...], list[Stage]]:
    """(the arguments in front of the first FROM, what follows each FROM)."""
    head: list[Instruction] = []
    all_stages: list[Stage] = []
    body = head
    for instruction in instructions(text):
        if instruction.name == "FROM":
            base, _, name = instruction.value.partition(" AS ")
            body = []
            all_stages.append(Stage(name, base, ()))
        else:
            body.append(instruction)
        if all_stages:
            all_stages[-1] = Stage(all_stages[-1].name, all_stages[-1].base, tuple(body))
    return tuple(head), all_stages


def lineage(stage: Stage, all_stages: list[Stage]) -> list[Stage]:
    """The stages that a stage is built on, the lowest first, itself last."""
    below = [other for other in all_stages if other.name == stage.base]
    return [*(lineage(below[0], all_stages) if below else []), stage]


def argument(instruction: Instruction) -> tuple[str, str | None]:
    name, given, default = instruction.value.partition("=")
    return name, default.strip('"') if given else None


def arguments(stage: Stage, all_stages: list[Stage]) -> dict[str, str | None]:
    every = [i for part in lineage(stage, all_stages) for i in part.instructions if i.name == "ARG"]
    return dict(map(argument, every))


def variables(text: str) -> set[str]:
    return {first or second for first, second in VARIABLE.findall(text)}


def substitute(text: str, values: dict[str, str | None]) -> str:
    return string.Template(text).safe_substitute({name: value for name, value in values.items() if value is not None})


def excluded(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a file out of what is sent to the builder: the last pattern that fits decides."""
    parents = [path, *(str(parent) for parent in PurePosixPath(path).parents)]
    out = False
    for pattern in patterns:
        again = pattern.startswith("!")
        parts = re.escape(pattern.lstrip("!").strip("/")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(parts, parent) for parent in parents):
            out = not again
    return out


IGNORED = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line]
PARSED = {path: stages(path.read_text(encoding="utf-8")) for path in DOCKERFILES}
EVERY_STAGE = [
    pytest.param(stage, all_stages, id=f"{path.stem}-{stage.name}")
    for path, (_, all_stages) in PARSED.items()
    for stage in all_stages
]


def test_the_three_images_of_the_layout_are_there() -> None:
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "jetpack.Dockerfile", "tensorrt.Dockerfile"]


@pytest.mark.parametrize(
    ("path", "out"),
    [
        (".git", True), (".venv/bin/python", True), ("qvit_deploy/__pycache__/build.pyc", True), ("out/a/b", True),
        ("qvit_deploy.egg-info/PKG-INFO", True), ("build/kernels/CMakeCache.txt", True), (".ci/run", False),
        ("qvit_deploy/commands/build.py", False), (".gitignore", False), ("docs/out", False),
    ],
)  # fmt: skip
def test_what_is_kept_out(path: str, out: bool) -> None:
    assert excluded(path, IGNORED) is out


def test_an_exception_takes_a_file_back_in() -> None:
    assert not excluded("docs/a.md", ["docs", "!docs/a.md"]) and excluded("docs/b.md", ["docs", "!docs/a.md"])


def test_what_git_ignores_is_not_sent() -> None:
    for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines():
        example = line.strip("/").replace("*", "some")
        assert excluded(example, IGNORED), line
        assert line.startswith("/") or line == ".venv/" or excluded(f"qvit_deploy/{example}", IGNORED), line


def test_no_file_of_the_repository_is_kept_out() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: the ci image is none")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not [path for path in listed.stdout.splitlines() if excluded(path, IGNORED)]


@pytest.mark.parametrize(("stage", "all_stages"), EVERY_STAGE)
def test_what_is_copied_exists_and_is_sent(stage: Stage, all_stages: list[Stage]) -> None:
    for copy in (i for i in stage.instructions if i.name in {"COPY", "ADD"}):
        assert copy.name == "COPY", "ADD fetches and unpacks"
        if "from" in copy.flags:
            assert copy.flags["from"] in {other.name for other in all_stages}
            continue
        for source in copy.words[:-1]:
            assert (ROOT / source).exists(), f"{source} is not in the repository"
            assert not excluded(str(PurePosixPath(source)), IGNORED), f".dockerignore keeps {source} out"
        assert len(copy.words) == 2 or copy.words[-1].endswith("/"), "several sources need a folder"


@pytest.mark.parametrize(("stage", "all_stages"), EVERY_STAGE)
def test_mounts_name_stages(stage: Stage, all_stages: list[Stage]) -> None:
    for run in (i for i in stage.instructions if i.name == "RUN"):
        options = dict(o.partition("=")[::2] for o in run.flags.get("mount", "").split(",") if o)
        if options.get("type") == "bind":
            assert options["from"] in {other.name for other in all_stages}
            assert options["target"] in run.value


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_a_change_of_the_sources_installs_nothing_again(path: Path) -> None:
    """Torch is installed above the first layer that any source but pyproject.toml and constraints.txt can change."""
    above = next(stage for stage in PARSED[path][1] if stage.name == "dependencies")
    copied = [source for i in above.instructions if i.name == "COPY" for source in i.words[:-1]]
    assert sorted(copied) == ["constraints.txt", "docker/requirements.py", "pyproject.toml"]
    for stage in PARSED[path][1]:
        for number, instruction in enumerate(stage.instructions):
            if "--requirement" in instruction.value:
                assert "--constraint constraints.txt" in instruction.value
                later = [i.value for i in stage.instructions[:number] if i.name == "COPY" and stage is not above]
                assert not later
            elif "pip install" in instruction.value or "pip wheel" in instruction.value:
                assert "--no-deps" in instruction.value


@pytest.mark.parametrize(("stage", "all_stages"), EVERY_STAGE)
def test_extras_exist(stage: Stage, all_stages: list[Stage]) -> None:
    for run in (i for i in stage.instructions if i.name == "RUN" and "requirements.py" in i.value):
        value = substitute(run.value, arguments(stage, all_stages))
        extras = re.search(r"python requirements\.py (.*?) >", value)
        assert extras is not None and set(extras[1].split()) <= EXTRAS


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_arguments_are_declared_before_they_are_used(path: Path) -> None:
    head, all_stages = PARSED[path]
    outside = {argument(i)[0] for i in head}
    for stage in all_stages:
        assert variables(stage.base) <= outside
        declared = set(FROM_THE_BASE_IMAGE)
        for instruction in [i for part in lineage(stage, all_stages) for i in part.instructions]:
            if instruction.name == "ARG":
                declared.add(argument(instruction)[0])
            else:
                assert variables(instruction.value) <= declared, instruction.value
            if instruction.name == "ENV":
                declared |= {word.partition("=")[0] for word in instruction.words}


@pytest.mark.parametrize(("stage", "all_stages"), EVERY_STAGE)
def test_bases_are_pinned_by_tag_or_named_by_the_caller(stage: Stage, all_stages: list[Stage]) -> None:
    if stage.base in {other.name for other in all_stages}:
        return
    if stage.base != "${BASE}":
        name, _, tag = stage.base.partition(":")
        assert tag and tag != "latest"
        assert "." not in name, f"{name} names a registry"


@pytest.mark.parametrize(
    "path", [*filter(Path.is_file, FOLDER.iterdir()), ROOT / ".dockerignore"], ids=lambda path: path.name
)
def test_no_host_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"\b[\w-]+\.(?:io|com|org|net|dev|ai|cloud)\b", text)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_image_runs_the_command_as_no_root(path: Path) -> None:
    _, all_stages = PARSED[path]
    last = {i.name: i for i in all_stages[-1].instructions}
    (command,) = last["ENTRYPOINT"].words
    assert command in PROJECT["project"]["scripts"]
    for stage in all_stages:
        users = [i.value for i in stage.instructions if i.name == "USER"]
        if "CMD" in {i.name for i in stage.instructions}:
            assert users and users[-1] not in {"root", "0"}


def commands() -> dict[str, set[str]]:
    """Command -> its flags."""
    group = typer.main.get_command(app)
    return {name: {flag for p in command.params for flag in p.opts} for name, command in group.commands.items()}


@pytest.mark.parametrize(("stage", "all_stages"), EVERY_STAGE)
def test_commands_that_a_build_runs_exist(stage: Stage, all_stages: list[Stage]) -> None:
    for run in (i for i in stage.instructions if i.name == "RUN"):
        for command, rest in re.findall(r"qvit-deploy ([a-z-]+)(.*)", run.value):
            assert set(re.findall(r"(?<![\w-])--[a-z-]+", rest)) <= commands()[command]


@pytest.mark.parametrize(("stage", "all_stages"), EVERY_STAGE)
def test_the_ci_image_runs_a_script_that_is_there(stage: Stage, all_stages: list[Stage]) -> None:
    for command in (i for i in stage.instructions if i.name == "CMD" and stage.name == "ci"):
        (script,) = command.words
        assert (ROOT / script).is_file() and not excluded(script, IGNORED)


def test_the_makefile_finds_its_environment_installed() -> None:
    text = (FOLDER / "cpu.Dockerfile").read_text(encoding="utf-8")
    assert "VENV := .venv" in MAKEFILE and "$(VENV)/.installed: pyproject.toml" in MAKEFILE
    assert "ln -s /opt/qvit .venv" in text and "touch .venv/.installed" in text


def test_every_requirement_is_printed() -> None:
    spec = importlib.util.spec_from_file_location("requirements", FOLDER / "requirements.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    printed = module.requirements(ROOT / "pyproject.toml", ["compile", "tensorrt"])
    optional = PROJECT["project"]["optional-dependencies"]
    parts = (PROJECT["build-system"]["requires"], PROJECT["project"]["dependencies"])
    assert printed == [*parts[0], *parts[1], *optional["compile"], *optional["tensorrt"]]
    with pytest.raises(KeyError, match="absent"):
        module.requirements(ROOT / "pyproject.toml", ["absent"])


SHOWN = [shlex.split(line, comments=True) for line in README.replace("\\\n", " ").splitlines() if "docker " in line]


@pytest.mark.parametrize("words", [w for w in SHOWN if w[:2] == ["docker", "build"]], ids=" ".join)
def test_shown_builds_name_what_exists(words: list[str]) -> None:
    path = ROOT / words[words.index("-f") + 1]
    head, all_stages = PARSED[path]
    given = {words[n + 1].partition("=")[0] for n, word in enumerate(words) if word == "--build-arg"}
    declared = {
        argument(i)[0] for i in [*head, *(i for stage in all_stages for i in stage.instructions)] if i.name == "ARG"
    }
    assert given <= declared
    assert {argument(i)[0] for i in head if argument(i)[1] is None} <= given, "required"
    if "--target" in words:
        assert words[words.index("--target") + 1] in {stage.name for stage in all_stages}


@pytest.mark.parametrize("words", [w for w in SHOWN if w[:2] == ["docker", "run"]], ids=" ".join)
def test_shown_runs_call_what_exists(words: list[str]) -> None:
    image = next(n for n, word in enumerate(words) if word.startswith("qvit-deploy:"))
    assert words[image] in {w[w.index("-t") + 1] for w in SHOWN if w[:2] == ["docker", "build"]}
    called = words[image + 1 :]
    if words[image] == "qvit-deploy:ci":
        assert not called or (called[0] == "make" and f"\n{called[1]}:" in MAKEFILE)
    elif "--entrypoint" in words:
        stage = PARSED[FOLDER / "jetpack.Dockerfile"][1][-1]
        assert called[0] in {i.words[-1] for i in stage.instructions if i.name == "COPY"}
    elif called:
        assert {word.partition("=")[0] for word in called if word.startswith("--")} <= commands()[called[0]]
