"""The ImageNet table on a folder of two classes: its rows are right, are made once, and survive a kill."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from qvit_deploy.data.pictures import decode
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import CheckError
from qvit_deploy.frontend.timm_model import create, parse_spec, preprocessing
from qvit_deploy.recipe import Recipe
from tests.support.paper_tables import Tool, require_no_second_measurement, require_one_line, rows, tool_of
from tests.support.places import REPOSITORY
from tools.paper import reproduce_imagenet

ROOT = REPOSITORY
NAME = "vit_tiny_patch16_224"
MODEL = f"{NAME}?img_size=32&patch_size=8&embed_dim=32&depth=1&num_heads=2&num_classes=2"
CLASSES = ("n01440764", "n01443537")
RUNS = ("FP32", "W4A4", "W6A6", "MP4", "MP6")


def picture(path: Path, brightness: float, number: int) -> None:
    """A noisy JPEG: the classes differ in brightness."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).normal(brightness, 40, (40, 48, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`imagenet/` with 20 images per class to calibrate on and 12 to evaluate, one unreadable in each; `weights/`."""
    root = tmp_path_factory.mktemp("fake")
    for split, count in (("train", 20), ("val", 12)):
        for label, wnid in enumerate(CLASSES):
            for i in range(count):
                picture(root / "imagenet" / split / wnid / f"{wnid}_{i}.JPEG", 80 + 90 * label, 100 * label + i)
    cut_short(root / "imagenet" / "val" / CLASSES[0] / f"{CLASSES[0]}_3.JPEG")
    cut_short(root / "imagenet" / "train" / CLASSES[1] / f"{CLASSES[1]}_5.JPEG")
    module, _ = create(*parse_spec(f"timm:{MODEL}"))
    (root / "weights").mkdir()
    save_file(module.state_dict(), root / "weights" / f"{NAME}.safetensors")
    return root


def command(folder: Path, out: Path, *more: object) -> list[str]:
    given = ("--checkpoints", folder / "weights", "--models", MODEL)
    return [str(a) for a in (folder / "imagenet", "--out", out, *given, *more)]


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    return tool_of(reproduce_imagenet.main, capsys)


@pytest.fixture(scope="session")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CSV of all five runs."""
    out = tmp_path_factory.mktemp("results") / "imagenet.csv"
    assert reproduce_imagenet.main(command(folder, out)) == 0
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(finished, tmp_path / "r.csv"))


def test_every_run_is_a_row_that_says_what_was_measured(finished: Path) -> None:
    found = rows(finished)
    assert tuple(found[0]) == reproduce_imagenet.COLUMNS
    assert [row["run"] for row in found] == list(RUNS)
    by_run = {row["run"]: row for row in found}
    for row in found:
        assert row["model"] == MODEL and row["n"] == "23" and row["skipped"] == "1" and row["limit"] == ""
        assert 0 <= float(row["top1"]) <= 100 and row["version"] and row["weights"].startswith("sha256 ")
    assert by_run["FP32"]["recipe"] == by_run["FP32"]["calibration_images"] == ""
    quantized = found[1:]
    assert len({row["recipe"] for row in quantized}) == 4 and all(len(row["recipe"]) == 16 for row in quantized)
    # The unreadable one of the 40 is drawn with seed 0; another takes its place. Four or more are kept apart.
    assert {(row["calibration_images"], row["calibration_skipped"]) for row in quantized} == {("32", "1")}
    kinds = "6 linear, 1 matmul_av, 1 matmul_qk; "
    assert by_run["W4A4"]["quantized"] == kinds + "6 w4a4, 2 w8a8"
    assert by_run["W6A6"]["quantized"] == kinds + "6 w6a6, 2 w8a8"
    assert all(by_run[run]["quantized"].startswith(kinds) for run in RUNS[1:])
    # The mixed runs stay within the mean of the fixed ones.
    for mixed, fixed in (("MP4", "W4A4"), ("MP6", "W6A6")):
        assert "our choice" in by_run[mixed]["widths"]
        assert int(by_run[mixed]["weight_bytes"]) <= int(by_run[fixed]["weight_bytes"])


def test_the_float_row_is_what_timm_itself_answers(finished: Path, folder: Path) -> None:
    """Labels follow the order of the class folders, images are prepared as timm says."""
    module, size = create(*parse_spec(f"timm:{MODEL}"))
    preprocess = Preprocess.model_validate(preprocessing(module, size))
    right = []
    for label, wnid in enumerate(CLASSES):
        for path in sorted((folder / "imagenet" / "val" / wnid).iterdir()):
            if path.stat().st_size > 400:
                with torch.no_grad():
                    logits = module(torch.tensor(preprocess.apply(decode(path)))[None])
                right.append(int(logits.argmax()) == label)
    assert len(right) == 23
    assert rows(finished)[0]["top1"] == f"{100 * np.mean(right):.2f}"


def test_a_second_run_measures_nothing_and_prints_the_table(tool: Tool, folder: Path, copied: Path) -> None:
    require_no_second_measurement(tool, command(folder, copied), copied)


def test_what_is_another_measurement_gets_another_row(tool: Tool, folder: Path, copied: Path, tmp_path: Path) -> None:
    def added(arguments: list[str]) -> list[dict[str, str]]:
        before = rows(copied)
        assert tool(arguments)[0] == 0
        after = rows(copied)
        assert after[: len(before)] == before
        return after[len(before) :]

    recipe = tmp_path / "r.toml"
    recipe.write_text('compensate = "none"\n')
    changed = command(folder, copied, "--runs", "W4A4", "--seed", 1, "--recipe", recipe)
    (row,) = added(changed)
    whole = Recipe(uniform="w4a4", attention="integer", calibration_images=32, seed=1, compensate="none")
    assert row["recipe"] == whole.digest()[:16] and not added(changed)

    (limited,) = added(command(folder, copied, "--runs", "FP32", "--limit", 8))
    assert limited["n"] == limited["limit"] == "8"

    moved = shutil.copytree(folder, tmp_path / "moved")
    assert not added(command(moved, copied))
    shutil.rmtree(moved / "imagenet" / "val" / CLASSES[1])
    picture(moved / "imagenet" / "val" / CLASSES[1] / "other.JPEG", 200, 7)
    assert [row["n"] for row in added(command(moved, copied, "--runs", "FP32"))] == ["12"]


def test_a_killed_table_goes_on_where_it_was(tool: Tool, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    arguments = command(folder, out, "--runs", *RUNS[:2])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    tool_command = [sys.executable, "-m", "tools.paper.reproduce_imagenet", *arguments]
    with subprocess.Popen(tool_command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not out.exists() or not rows(out):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    kept = rows(out)
    assert len(kept) == 1

    code, _, err = tool(arguments)
    assert code == 0 and "1 runs to do, 1 are in" in err
    assert rows(out)[:1] == kept and [row["run"] for row in rows(out)] == list(RUNS[:2])


def test_a_bundle_that_fails_its_verification_does_not_stop_the_others(
    tool: Tool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = reproduce_imagenet.measure

    def measure(source: object, recipe: object, *more: object) -> dict[str, str]:
        if recipe is not None:
            raise CheckError("the codes differ")
        return real(source, recipe, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(reproduce_imagenet, "measure", measure)
    code, _, err = tool(command(folder, tmp_path / "r.csv", "--runs", "W4A4", "FP32"))
    assert code == 1 and f"error: {MODEL} W4A4: the codes differ" in err
    assert [row["run"] for row in rows(tmp_path / "r.csv")] == ["FP32"]


def test_an_interruption_says_how_to_go_on(
    tool: Tool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object) -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce_imagenet, "measure", measure)
    code, out, err = tool(command(folder, tmp_path / "r.csv", "--runs", "FP32"))
    assert code == 130 and out == "" and "r.csv, the same command goes on after them" in err.splitlines()[-1]
    assert rows(tmp_path / "r.csv") == []


def _one_folder_more(root: Path) -> None:
    (root / "imagenet" / "val" / "n09999999").mkdir()


def _flat_val(root: Path) -> None:
    shutil.rmtree(root / "imagenet" / "val")
    picture(root / "imagenet" / "val" / "a.JPEG", 90, 0)


def _weights_of_a_model_nobody_has(root: Path) -> None:
    shutil.copy(root / "weights" / f"{NAME}.safetensors", root / "weights" / "vit_tinny_patch16_224.safetensors")


@pytest.mark.parametrize(
    ("spoil", "more", "words"),
    [
        (lambda root: shutil.rmtree(root / "imagenet"), (), "there is no folder"),
        (lambda root: shutil.rmtree(root / "imagenet" / "train"), (), "train/ with images to calibrate on"),
        (lambda root: shutil.rmtree(root / "imagenet" / "val"), (), "one sub-folder of images per class"),
        (_flat_val, (), "has no class folders"),
        (_one_folder_more, (), "val has 3 class folders but vit_tiny_patch16_224?img_size=32"),
        (lambda root: shutil.rmtree(root / "weights"), (), "vit_tiny_patch16_224.safetensors cannot be read"),
        (lambda root: cut_short(root / "weights" / f"{NAME}.safetensors"), (), "not a readable safetensors file"),
        (_weights_of_a_model_nobody_has, ("--models", "vit_tinny_patch16_224"), "did you mean"),
        (lambda root: None, ("--recipe", "none.toml"), "recipe none.toml: cannot be read"),
        (lambda root: (root / "r.csv").write_text("a,b\n"), (), "has other columns"),
    ],
)
def test_unusable_input_is_one_line_before_anything_runs(
    tool: Tool, folder: Path, tmp_path: Path, spoil: Callable[[Path], object], more: tuple[str, ...], words: str
) -> None:
    root = shutil.copytree(folder, tmp_path / "copy")
    spoil(root)
    require_one_line(tool, command(root, root / "r.csv", *more), words)


@pytest.mark.parametrize(("run", "lrp"), [("W4A4", "61.24"), ("MP4", "61.24"), ("W6A6", "71.03"), ("MP6", "71.03")])
def test_published_numbers_stand_beside_the_same_nominal_width(run: str, lrp: str) -> None:
    paper = reproduce_imagenet.MODELS["deit_tiny_patch16_224"]
    cells = reproduce_imagenet.published(paper, run)
    assert cells["float (published)"] == "72.21" and cells["LRP-QViT (published)"] == lrp
    assert set(cells) == set(reproduce_imagenet.PUBLISHED) <= set(reproduce_imagenet.COLUMNS)


def test_no_number_is_an_empty_cell() -> None:
    assert set(reproduce_imagenet.published(None, "W4A4").values()) == {""}
    swin = reproduce_imagenet.published(reproduce_imagenet.MODELS["swin_tiny_patch4_window7_224"], "MP4")
    assert (swin["RepQ-ViT (published)"], swin["LRP-QViT (published)"]) == ("72.31", "")
    floats = reproduce_imagenet.published(reproduce_imagenet.MODELS["deit_tiny_patch16_224"], "FP32")
    assert [cell for cell in floats.values() if cell] == ["72.21"]


@pytest.mark.slow
def test_a_model_of_the_paper_at_full_size(tool: Tool, tmp_path: Path) -> None:
    """1,000 class folders, two of them with images; random weights."""
    name = "deit_tiny_patch16_224"
    for i in range(1000):
        (tmp_path / "val" / f"n{i:08d}").mkdir(parents=True)
    for i in range(34):
        picture(tmp_path / "train" / f"{i}.JPEG", 4 * i, i)
    for i, wnid in enumerate(("n00000003", "n00000700")):
        picture(tmp_path / "val" / wnid / "a.JPEG", 100 * i, i)
    save_file(create(name, {})[0].state_dict(), tmp_path / f"{name}.safetensors")
    out = tmp_path / "r.csv"
    weights = ("--checkpoints", str(tmp_path), "--models", name, "--runs", "FP32", "W4A4")
    code, printed, err = tool([str(tmp_path), "--out", str(out), *weights])
    assert code == 0, err
    assert "DeiT-T" in printed and "57.43" in printed
    quantized = rows(out)[1]
    assert quantized["n"] == "2" and quantized["RepQ-ViT (published)"] == "57.43"
    assert quantized["quantized"] == "50 linear, 12 matmul_av, 12 matmul_qk; 72 w4a4, 2 w8a8"
