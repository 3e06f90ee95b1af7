"""`qvit-deploy sweep`: what it promises about the bundles its rows stand for, and about what it costs."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.sweep import Job, plan_recipes, run, sweep
from qvit_deploy.progress import Advance
from qvit_deploy.recipe import Recipe
from tests.support.absent_libraries import without
from tests.support.command_line import Command, Inputs


def arguments(inputs: Inputs, *more: object) -> list[object]:
    return ["sweep", inputs.model, "--calib", inputs.calib, "--preprocess", inputs.preprocess, "--images", 8, *more]


def job(inputs: Inputs, *budgets: tuple[str, float | str], scores: tuple[str, ...] = ("lrp",)) -> Job:
    recipes = plan_recipes(Recipe(calibration_images=8), scores, budgets)
    preprocess = Preprocess.from_file(inputs.preprocess)
    return Job(str(inputs.model), tuple(recipes), InputOptions(str(inputs.calib), preprocess=preprocess))


class Stages:
    """A `Progress` that counts how often each stage was opened."""

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        self.opened[name] += 1
        yield lambda _: None


def test_a_row_is_what_a_compile_writes(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    flags = ["--mean-bits", "5", "--score", "gradient", "--separate-bits"]
    [row] = json.loads(qvit(*arguments(inputs, *flags, "--data", inputs.calib, "--json")).out)["rows"]
    compiled = qvit(*inputs.arguments(tmp_path / "b", *flags, "--json"))
    assert compiled.code == 0, compiled.err
    summary = json.loads(compiled.out)["summary"]
    shared = ("mean_w_bits", "mean_a_bits", "weight_bytes", "bitops")
    assert {n: row[n] for n in shared} == {n: summary[n] for n in shared}
    evaluated = json.loads(qvit("eval", tmp_path / "b", "--data", inputs.calib, "--json").out)
    assert (row["top1"], row["float_top1"]) == (evaluated["top1"], evaluated["float_top1"])
    assert (row["test_agreement"], row["test_images"]) == (evaluated["agreement"], evaluated["n"])
    assert row["held_out"] and row["images"] == 4  # of 12, 8 are calibrated on


def test_more_budgets_and_scores_do_not_calibrate_again(inputs: Inputs) -> None:
    stages = Stages()
    rows = run(job(inputs, *(("mean_bits", b) for b in (4, 5, 6)), scores=("lrp", "exact")), stages)
    assert [(r.score, r.budget) for r in rows] == [
        (s, f"mean_bits={b}") for s in ("lrp", "exact") for b in (4, 5, 6)
    ]  # fmt: skip
    assert stages.opened["observe"] == stages.opened["fold"] == 1 and stages.opened["relevance"] == 2
    for score in ("lrp", "exact"):
        losses = [r.loss for r in rows if r.score == score]
        assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1]


def test_uniform_widths_are_compared_once_whatever_the_scores(inputs: Inputs) -> None:
    rows = sweep([job(inputs, ("uniform", "w4a4"), ("mean_bits", 5.0), scores=("lrp", "relp"))], "local")
    assert [(r.score, r.budget) for r in rows] == [
        ("none", "uniform=w4a4"), ("lrp", "mean_bits=5"), ("relp", "mean_bits=5"),
    ]  # fmt: skip
    assert all(r.pareto for r in rows)


def test_the_table_and_its_files(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "results" / "sweep"
    done = qvit(*arguments(inputs, "--mean-bits", "4,6", "-o", out, "--measure"))
    assert done.code == 0, done.err
    assert "mean_bits=4" in done.out and "4 held-out calibration images" in done.out and "top-1" not in done.out
    assert sorted(p.name for p in out.iterdir()) == ["sweep.csv", "sweep.json", "sweep.svg"]
    rows = json.loads((out / "sweep.json").read_text())["rows"]
    read = list(csv.DictReader((out / "sweep.csv").open()))
    assert [float(r["sqnr_db"]) for r in read] == [r["sqnr_db"] for r in rows]
    assert rows[1]["sqnr_db"] > rows[0]["sqnr_db"] and rows[0]["top1"] is None

    refused = qvit(*arguments(inputs, "--mean-bits", "4", "-o", out))
    assert refused.code == 2 and "--force" in refused.errors[0]
    assert qvit(*arguments(inputs, "--mean-bits", "4", "-o", out, "--force")).code == 0
    assert len(json.loads((out / "sweep.json").read_text())["rows"]) == 1


def test_every_model_has_its_float_top1_beside_it(qvit: Command, inputs: Inputs) -> None:
    asked = arguments(inputs, "--uniform", "w8a8", "--data", inputs.calib)
    rows = json.loads(qvit(*asked, "--json").out)["rows"]
    assert f"{rows[0]['model']}, float top-1 {rows[0]['float_top1']:.1%}" in qvit(*asked).out


def test_without_images_to_spare_it_says_so(qvit: Command, inputs: Inputs) -> None:
    done = qvit(*arguments(inputs, "--images", 12, "--mean-bits", 5, "--measure", "--json"))
    [row] = json.loads(done.out)["rows"]
    assert row["images"] == 12 and row["held_out"] is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["needs budgets"]),
        (["--mean-bits", "4,x"], ["--mean-bits '4,x'"]),
        (["--mean-bits", "5,3"], ["3 mean weight bits cannot be met", "smallest possible is 4"]),
        (["--mean-bits", "5", "--score", "lrp,magic"], ["score", "'lrp', 'relp'"]),
        (["--uniform", "w4a4,4"], ["'4' is not a width like w8a8"]),
        (["--max-latency", "5"], ["needs a latency_table"]),
        (["--mean-bits", "5", "--bits", "4;6"], ["--bits '4;6'"]),
        (["--mean-bits", "5", "--data", "none.npz"], ["none.npz"]),
        (["other.onnx", "--mean-bits", "5", "--checkpoint", "w.pt"], ["weights of one model"]),
    ],
)
def test_what_cannot_be_swept_is_one_line(
    qvit: Command, inputs: Inputs, tmp_path: Path, flags: list[object], words: list[str]
) -> None:
    done = qvit(*arguments(inputs, *flags, "-o", tmp_path / "out"))
    assert done.code == 2 and done.out == "" and len(done.errors) == 1
    assert all(word in done.errors[0] for word in words), done.errors[0]
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    done = qvit(*arguments(inputs, "--mean-bits", "5", "-o", tmp_path / "out"))
    assert done.code == 2 and "not a folder" in done.errors[0] and (tmp_path / "out").read_text() == "mine"


def test_without_ray_its_engine_is_refused(qvit: Command, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "ray")
    done = qvit(*arguments(inputs, "--mean-bits", "5", "--engine", "ray"))
    assert done.code == 2 and done.errors == ['error: the ray engine is not installed: pip install "qvit-deploy[ray]"']


@pytest.mark.slow
def test_ray_gives_the_same_rows_and_the_same_errors(
    qvit: Command, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--mean-bits", "4,5", "--measure", "--json"]
    monkeypatch.chdir(tmp_path)  # workers run elsewhere, and must find the cache all the same
    here, there = (qvit(*arguments(inputs, *flags, "--engine", *e)) for e in (["local"], ["ray", "--cache", "kept"]))
    assert here.code == there.code == 0 and json.loads(here.out) == json.loads(there.out)
    assert list((tmp_path / "kept").glob("fold-*.safetensors"))
    refused = qvit(*arguments(inputs, "--mean-bits", "3", "--engine", "ray"))
    assert refused.code == 2 and len(refused.errors) == 1 and "smallest possible is 4" in refused.errors[0]
