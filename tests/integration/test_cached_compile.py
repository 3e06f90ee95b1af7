"""`--cache`: the same bundles to the byte, without what was worked out before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import qvit_deploy
from tests.support.artifacts.bundle_example import tree
from tests.support.command_line import Command, Inputs

STAGES = ("fold", "observe", "ranges", "relevance", "plan")
MADE = {"importance", "fold", "observe", "ranges", "weights", "relevance", "round", "distill"}


def cached(seconds: dict[str, float]) -> set[str]:
    return {name.removesuffix(" (cached)") for name in seconds if name.endswith(" (cached)")}


RECIPES = {
    "default": 'mean_bits = 5\ntargets = ["onnxruntime-fused"]',
    "integer attention, per head": (
        'attention = "integer"\nattention_granularity = "head"\nbits = [3, 4, 8]\nmean_bits = 4\nscore = "exact"'
    ),
    "probabilities without rows": 'attention = "integer"\nsoftmax = "log2"\nsoftmax_rows = false\nuniform = "w4a4"',
    "distilled": 'distill_epochs = 1\nscore = "random"\nseparate_bits = true',
    "rounded to nearest": 'compensate = "none"\nrow_importance = "none"\nfold = false\nscore = "uniform"',
}


@pytest.mark.parametrize(
    "recipe", ["default", *(pytest.param(r, marks=pytest.mark.slow) for r in RECIPES if r != "default")]
)
def test_bundles_are_the_same_without_a_cold_or_a_warm_cache(
    qvit: Command, inputs: Inputs, tmp_path: Path, recipe: str
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPES[recipe])
    seconds = {}
    for name in ("without", "cold", "warm"):
        flags = [] if name == "without" else ["--cache", tmp_path / "cache"]
        done = qvit(*inputs.arguments(tmp_path / name, "--recipe", path, "--json", *flags))
        assert done.code == 0, done.err
        seconds[name] = json.loads(done.out)["seconds"]
        assert all(f"{stage} (cached)" in done.err for stage in STAGES) is (name == "warm")
    assert tree(tmp_path / "without") == tree(tmp_path / "cold") == tree(tmp_path / "warm")
    assert cached(seconds["cold"]) == set() and set(seconds["cold"]) - {"cache"} == set(seconds["without"])
    assert cached(seconds["warm"]) == set(STAGES) and not MADE & set(seconds["warm"])
    assert [p.name.partition("-")[0] for p in sorted((tmp_path / "cache").iterdir())] == sorted(STAGES)


def test_another_budget_does_not_calibrate_again(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    cache = ["--cache", tmp_path / "cache"]
    assert qvit(*inputs.arguments(tmp_path / "five", "--mean-bits", 5, *cache)).code == 0
    done = qvit(*inputs.arguments(tmp_path / "six", "--mean-bits", 6, "--json", *cache))
    seconds = json.loads(done.out)["seconds"]
    assert cached(seconds) == set(STAGES[:4]) and MADE & set(seconds) == {"round"}
    assert qvit(*inputs.arguments(tmp_path / "alone", "--mean-bits", 6)).code == 0
    assert tree(tmp_path / "six") == tree(tmp_path / "alone") != tree(tmp_path / "five")


def test_a_sweep_and_a_compile_share_a_cache(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    flags = ["--calib", inputs.calib, "--preprocess", inputs.preprocess, "--images", 8, "--json"]
    sweep = ["sweep", inputs.model, "--mean-bits", "5,6", "--score", "gradient,lrp", "--measure", *flags]
    cache = ["--cache", tmp_path / "cache"]
    alone, first, second = qvit(*sweep), qvit(*sweep, *cache), qvit(*sweep, *cache)
    assert alone.code == 0 and alone.out == first.out == second.out
    assert "cached" not in first.err and second.err.count("relevance (cached)") == 2
    done = qvit(*inputs.arguments(tmp_path / "b", "--mean-bits", 6, "--json", *cache))
    assert cached(json.loads(done.out)["seconds"]) == set(STAGES)


def test_a_damaged_cache_is_made_anew_and_said(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert qvit(*inputs.arguments(tmp_path / "first", "--cache", cache)).code == 0
    whole = tree(cache)
    for i, path in enumerate(sorted(cache.iterdir())):
        content = bytearray(path.read_bytes())
        if i % 2:
            content[-1] ^= 1
        else:
            del content[len(content) // 2 :]
        path.write_bytes(content)
    done = qvit(*inputs.arguments(tmp_path / "second", "--cache", cache))
    assert done.code == 0 and "(cached)" not in done.err
    assert all(f"{stage} (cached result damaged, made anew)" in done.err for stage in STAGES)
    assert tree(tmp_path / "second") == tree(tmp_path / "first") and tree(cache) == whole


def test_a_cache_that_cannot_be_used_is_one_line(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    sweep = ["sweep", inputs.model, "--calib", inputs.calib, "--preprocess", inputs.preprocess, "--mean-bits", 5]
    for folder, words in ((tmp_path / "file", "is not a folder"), (Path("/proc/self"), "cannot be written")):
        for command in (inputs.arguments(tmp_path / "out"), sweep):
            done = qvit(*command, "--cache", folder)
            assert done.code == 2 and done.out == "" and len(done.errors) == 1
            assert f"--cache {folder} {words}" in done.errors[0]
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


def process(arguments: list[object], package: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qvit_deploy", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=package, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


HERE = Path(qvit_deploy.__file__).parents[1]


@pytest.mark.slow
def test_processes_that_share_a_cache_do_not_harm_each_other(inputs: Inputs, tmp_path: Path) -> None:
    cache = ["--cache", tmp_path / "cache"]
    running = [process(inputs.arguments(tmp_path / f"{i}", "--json", *cache), HERE) for i in range(2)]
    for child in running:
        assert child.wait() == 0
        assert "damaged" not in child.communicate()[1]
    assert tree(tmp_path / "0") == tree(tmp_path / "1")
    assert sorted(p.name.partition("-")[0] for p in (tmp_path / "cache").iterdir()) == sorted(STAGES)


@pytest.mark.slow
def test_a_killed_compile_goes_on_where_it_was(inputs: Inputs, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    flags = ["--recipe", tmp_path / "recipe.toml", "--json", "--cache", cache]
    (tmp_path / "recipe.toml").write_text("distill_epochs = 100000")  # it cannot end before it is killed
    child = process(inputs.arguments(tmp_path / "killed", *flags), HERE)
    while child.poll() is None and not list(cache.glob("relevance-*")):
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (tmp_path / "killed").exists()
    (tmp_path / "recipe.toml").write_text("distill_epochs = 1")
    again = process(inputs.arguments(tmp_path / "again", *flags), HERE)
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert cached(json.loads(out)["seconds"]) == set(STAGES[:4])


@pytest.mark.slow
def test_other_code_uses_nothing(inputs: Inputs, tmp_path: Path) -> None:
    """A copy of the package, once as it is and once with a comment more."""
    shutil.copytree(HERE / "qvit_deploy", tmp_path / "qvit_deploy", ignore=shutil.ignore_patterns("__pycache__"))
    stages = []
    for change in ("", "", "# a comment\n"):
        path = tmp_path / "qvit_deploy" / "quantize" / "ranges" / "clip.py"
        path.write_text(path.read_text() + change)
        arguments = inputs.arguments(tmp_path / "b", "--json", "--force", "--cache", tmp_path / "cache")
        child = process(arguments, tmp_path)
        out, err = child.communicate()
        assert child.returncode == 0, err
        stages.append(cached(json.loads(out)["seconds"]))
    assert stages == [set(), set(STAGES), set()]
