"""bench and check on the command line, with files that really run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from qvit_deploy.artifacts.measurement import read_measurement
from tests.support.artifacts.measurements import noisy, subject, tree, write
from tests.support.command_line import Command, Inputs, Result
from tests.support.places import REPOSITORY

QUICK = ("--processes", 2, "--iterations", 24)


@pytest.fixture(scope="module")
def bundle(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qvit_deploy.data.preprocess import Preprocess
    from qvit_deploy.pipeline.compile import compile
    from qvit_deploy.recipe import Recipe

    out = tmp_path_factory.mktemp("bench") / "bundle"
    recipe = Recipe.load(None, effort="fast", uniform="w8a8", calibration_images=8)
    compile(
        str(inputs.model),
        out,
        calib=str(inputs.calib),
        preprocess=Preprocess.from_file(inputs.preprocess),
        recipe=recipe,
    )
    return out


def refused(result: Result, *words: str) -> None:
    assert result.code == 2 and result.out == "", result
    assert len(result.errors) == 1 and result.err.rstrip().splitlines()[-1] == result.errors[0], result.err
    assert all(word in result.errors[0] for word in words), result.errors[0]


def test_a_bundle_is_measured_and_keeps_the_result(qvit: Command, bundle: Path, inputs: Inputs) -> None:
    done = qvit("bench", bundle, *QUICK, "--data", inputs.calib, "--json")
    assert done.code == 0, done.err
    measurement = json.loads(done.out)
    assert {"p50", "p90", "p99", "mean", "samples"} <= set(measurement["latency_ms"])
    assert measurement["latency_ms"]["samples"] == 48 and len(measurement["processes"]) == 2
    assert all(len(p["yardstick_ms"]) == len(p["blocks_ms"]) == 12 for p in measurement["processes"])
    assert measurement["throughput"] > 0 and measurement["environment"]["versions"]["onnxruntime"]
    assert measurement["file"]["sha256"] == read_manifest(bundle)["files"]["model.onnxruntime.onnx"]["sha256"]
    assert {s["name"] for s in read_manifest(bundle)["sites"]} <= {s["name"] for s in measurement["profile"]["sites"]}
    assert measurement["quality"]["n"] == 12 and 0 <= measurement["quality"]["agreement"] <= 1
    (written,) = (bundle / "measurements").iterdir()
    assert read_measurement(written).tree() == measurement
    assert qvit("inspect", bundle).code == 0


def read_manifest(bundle: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return manifest


def test_two_files_in_one_run_and_a_check_of_it(qvit: Command, bundle: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.json"
    flags = ("--against", bundle / "model.float.onnx", "--batch", 2, "--no-profile", "-o", both)
    done = qvit("bench", bundle, *QUICK, *flags)
    assert done.code == 0, done.err
    assert "of the time of model.float.onnx" in done.out and "p50" in done.out
    measurement = json.loads(both.read_text())
    assert measurement["settings"]["batch"] == 2 and "profile" not in measurement
    assert all("yardstick_ms" not in p for p in measurement["processes"])
    assert measurement["against"]["file"]["name"] == "model.float.onnx" and measurement["ratio"]["p50"] > 0
    checked = qvit("check", both, "--max-slowdown", "9000%", "--json")
    assert checked.code == 0, checked.err
    assert json.loads(checked.out)["latency_ratio"]["interleaved"] is True


@pytest.mark.parametrize(("level", "code"), [(5.0, 0), (5.5, 1)])
def test_exit_codes_and_outputs(qvit: Command, tmp_path: Path, level: float, code: int) -> None:
    old = write(tmp_path / "old.json", tree("old", noisy(5, 1)))
    new = write(tmp_path / "new.json", tree("new", noisy(level, 2)))
    files = {n: tmp_path / n for n in ("junit.xml", "summary.md", "action.json")}
    files["summary.md"].write_text("before\n")
    outputs = (
        "--junit",
        files["junit.xml"],
        "--markdown",
        files["summary.md"],
        "--benchmark-action",
        files["action.json"],
    )
    done = qvit("check", old, new, *outputs)
    assert done.code == code and "latency" in done.out
    assert len(done.errors) == code and all("regression: latency" in e for e in done.errors)
    assert b"<testsuite" in files["junit.xml"].read_bytes()
    summary = files["summary.md"].read_text()
    assert summary.startswith("before\n") and ("no regression" in summary) == (code == 0)
    assert json.loads(files["action.json"].read_text())[0]["unit"] == "ms"


def test_several_files_of_each_side(qvit: Command, tmp_path: Path) -> None:
    olds = [write(tmp_path / f"old{i}.json", tree("old", noisy(5, i))) for i in range(3)]
    news = [write(tmp_path / f"new{i}.json", tree("new", noisy(5.6, 10 + i))) for i in range(3)]
    assert qvit("check", ",".join(map(str, olds)), ",".join(map(str, olds))).code == 0
    assert qvit("check", ",".join(map(str, olds)), ",".join(map(str, news))).code == 1
    both = write(tmp_path / "a,b.json", tree("new", noisy(5, 2), against=subject("old", noisy(5, 1))))
    assert qvit("check", both).code == 0


def test_check_refuses_what_is_not_a_measurement(qvit: Command, tmp_path: Path, bundle: Path) -> None:
    good = write(tmp_path / "good.json", tree("old", noisy(5, 1)))
    empty = tmp_path / "empty.json"
    empty.write_text("")
    refused(qvit("check", good, empty), "empty.json: is empty")
    refused(qvit("check", tmp_path / "none.json", good), "none.json: cannot be read")
    refused(qvit("check", bundle / "manifest.json", good), "manifest.json: is not a measurement")
    refused(qvit("check", good), "good.json: holds one file only", "--against")
    refused(qvit("check", good, good, "--max-slowdown", "much"), "--max-slowdown 'much'")
    refused(qvit("check", good, good, "--max-slowdown", "-3%"), "--max-slowdown '-3%'")
    other = tree("new", noisy(5, 2))
    other["environment"]["cpu"] = "another"
    refused(
        qvit("check", good, write(tmp_path / "other.json", other)), "different environments", "cpu: a cpu / another"
    )
    refused(qvit("check", good, good, "--junit", tmp_path / "none" / "j.xml"), "cannot be written")


def test_bench_refuses_what_it_cannot_run(qvit: Command, bundle: Path, inputs: Inputs, tmp_path: Path) -> None:
    garbage, engine = tmp_path / "garbage.onnx", tmp_path / "model.engine"
    garbage.write_bytes(b"not a model")
    engine.write_bytes(b"engine")
    refused(qvit("bench", tmp_path / "none"), "no bundle, .onnx file or engine at")
    refused(qvit("bench", garbage, *QUICK), "garbage.onnx: ONNX Runtime cannot load it")
    refused(qvit("bench", engine), "model.engine has no record model.json beside it")
    refused(qvit("bench", inputs.model, "--against", engine), "model.engine has no record model.json beside it")
    refused(qvit("bench", bundle, "--target", "tensorrt"), "has no engine for tensorrt; build one where it will run")
    refused(qvit("bench", inputs.model, "--threads", 0), "--threads must be at least 1")
    refused(qvit("bench", inputs.model, "--processes", 1, "--iterations", 1), "two or more")
    refused(qvit("bench", inputs.model, "--trtexec-log", engine), "--trtexec-times")
    refused(qvit("bench", engine, "--trtexec-times", garbage, "--processes", 0), "--processes must be at least 1")
    open_size, fixed = tmp_path / "open.onnx", tmp_path / "fixed.onnx"
    model = onnx.load(inputs.model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, fixed)
    refused(qvit("bench", fixed, "--batch", 2, *QUICK), "takes batches of 3 only")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, open_size)
    refused(qvit("bench", open_size, *QUICK), "open dimension 'height'")
    refused(qvit("bench", fixed, "--against", inputs.model, *QUICK, "--no-profile"), "different batches")


def test_a_result_that_cannot_be_kept(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(qvit("bench", inputs.model, *QUICK, "-o", tmp_path / "file" / "m.json"), "cannot be written")


def test_trtexec_recordings_of_an_engine_in_a_bundle(qvit: Command, bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "bundle"
    shutil.copytree(bundle, moved, ignore=shutil.ignore_patterns("measurements"))
    engine = moved / "engines" / "e.engine"
    engine.parent.mkdir()
    engine.write_bytes(b"engine")
    times, layers = tmp_path / "t.json", tmp_path / "p.json"
    times.write_text(json.dumps([{"computeMs": 1.0 + 0.001 * i} for i in range(200)]))
    layers.write_text(
        json.dumps([{"count": 1}, {"name": "fc1/MatMul", "averageMs": 0.2}, {"name": "x", "averageMs": 0.1}])
    )
    flags = ("--times", times, "--profile", layers, "-o", tmp_path / "m.json", "--json")
    done = qvit("import-trtexec", engine, *flags)
    assert done.code == 0, done.err
    measurement = json.loads(done.out)
    older = qvit("bench", engine, "--trtexec-times", times, "--trtexec-profile", layers, "--json")
    same = ("file", "latency_ms", "processes", "profile", "settings")
    assert {n: json.loads(older.out)[n] for n in same} == {n: measurement[n] for n in same}
    assert measurement["source"] == "trtexec" and measurement["latency_ms"]["samples"] == 200
    assert [s["name"] for s in measurement["profile"]["sites"]] == ["fc1"]
    assert qvit("check", tmp_path / "m.json", tmp_path / "m.json").code == 0
    times.write_text("[]")
    refused(qvit("import-trtexec", engine, *flags), "t.json: holds 0 runs")
    refused(qvit("import-trtexec", moved, *flags), "no engine at", "name the file that trtexec ran")


def test_sites_are_timed_for_a_budget_in_milliseconds(
    qvit: Command, bundle: Path, inputs: Inputs, tmp_path: Path
) -> None:
    """bench-sites -> compile --max-latency; bench --sites, its older spelling, times the models that were written."""
    models, table = tmp_path / "models", tmp_path / "table.json"
    few = ("--processes", 1, "--iterations", 8)
    flags = ("--bits", "4,8", "--site-models", models, *few)
    done = qvit("bench-sites", bundle, *flags, "-o", table, "--json")
    assert done.code == 0, done.err
    table_tree = json.loads(done.out)
    assert table_tree == json.loads(table.read_text()) and table_tree["schema"] == "qvit-deploy/latency/1"
    sites = [s["name"] for s in read_manifest(bundle)["sites"]]
    assert list(json.loads(table.read_text())["sites"]) == sites
    assert all(set(times) == {"w4a4", "w8a8"} and min(times.values()) > 0 for times in table_tree["sites"].values())
    budget = 2 * sum(max(times.values()) for times in table_tree["sites"].values())
    compiled = qvit(
        *inputs.arguments(tmp_path / "b", "--bits", "4,8", "--latency-table", table, "--max-latency", budget, "--json")
    )
    assert compiled.code == 0, compiled.err
    manifest = json.loads(compiled.out)
    wanted = sum(table_tree["sites"][s["name"]][f"w{s['w_bits']}a{s['a_bits']}"] for s in manifest["sites"])
    assert manifest["latency"]["sites_ms"] == pytest.approx(wanted, rel=1e-3)
    assert manifest["latency"]["fingerprint"] == table_tree["fingerprint"]
    again = qvit("bench", bundle, "--sites", *flags)
    assert again.code == 0 and "w4a4, ms" in again.out and any((bundle / "measurements").glob("sites.*.json"))


def test_site_models_that_are_not(qvit: Command, bundle: Path, tmp_path: Path) -> None:
    for spelling in (("bench-sites", bundle), ("bench", bundle, "--sites")):
        refused(qvit(*spelling, "--bits", "4,9"), "--bits 4,9")
    refused(qvit("bench-sites", bundle, "--target", "openvino"), "onnxruntime, tensorrt, tensorrt-rtx")
    (tmp_path / "index.json").write_text(
        '{"schema": "qvit-deploy/site-models/1", "sites": {"a": {"w4a4": "../x.onnx"}}}'
    )
    refused(qvit("bench-sites", bundle, "--site-models", tmp_path), "index.json")


@pytest.mark.parametrize("name", ["docs/bench.md", "tools/ci/github-actions.yml", "tools/ci/gitlab-ci.yml"])
def test_commands_in_texts_have_only_flags_that_exist(qvit: Command, name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8").replace("\\\n", " ")
    checked = 0
    for command, rest in re.findall(
        r"^[^#|`\n]*\bqvit-deploy (bench-sites|import-trtexec|bench|check|compile) ([^#\n]*)", text, re.MULTILINE
    ):
        known = set(re.findall(r"(--[a-z][a-z0-9-]+)", qvit(command, "--help").out))
        used = set(re.findall(r"(--[a-z][a-z0-9-]+)", rest))
        assert used <= known, f"{command}: {used - known}"
        checked += 1
    assert checked >= 3
