"""The commands of design section 5, on a model small enough to compile in a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from qvit_deploy.artifacts.bundle import read_bundle
from qvit_deploy.recipe import Score
from tests.support.artifacts.bundle_example import tree
from tests.support.command_line import Command, Inputs


def test_python_m_compiles_verifies_and_writes_a_bundle(inputs: Inputs, tmp_path: Path) -> None:
    """In a process of its own, as a script calls it."""
    out = tmp_path / "bundle"
    arguments = [str(a) for a in inputs.arguments(out, "--mean-bits", 5, "--json")]
    done = subprocess.run([sys.executable, "-m", "qvit_deploy", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert "Traceback" not in done.stderr and "error" not in done.stderr

    bundle = read_bundle(out)
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest.pop("digest")) == 64
    assert printed["bundle"] == str(out) and {k: printed[k] for k in manifest} == manifest
    needed = {"schema", "source", "recipe", "sites", "summary", "verification", "files"}
    assert needed <= set(manifest)
    assert set(manifest["summary"]) == {
        "mean_w_bits", "mean_a_bits", "weight_bytes", "float_weight_bytes", "bitops", "float_bitops",
    }  # fmt: skip
    for site in manifest["sites"]:
        assert {"name", "kind", "w_bits", "a_bits", "params", "macs", "score"} <= set(site)
    assert [s["name"] for s in manifest["sites"]][::8] == ["stem", "head"]
    assert manifest["sites"][0]["macs"] == 16 * 64 * 27
    assert manifest["sites"][0]["w_bits"] == manifest["sites"][-1]["w_bits"] == 8
    assert {s["w_bits"] for s in manifest["sites"]} <= {4, 6, 8}
    assert manifest["verification"]["code_mismatches"] == 0 and manifest["verification"]["codes"] > 0
    assert set(manifest["files"]) == set(tree(out)) - {"manifest.json"}
    assert (
        bundle.path_of("model.onnxruntime.onnx").stat().st_size
        == (manifest["files"]["model.onnxruntime.onnx"]["bytes"])
    )
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """Whatever order sets have in them; a model with more rows than calibration keeps, so that some are drawn."""
    written = []
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "qvit_deploy", "compile", "demo:vit", "-o", str(tmp_path / seed)]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, "--uniform", "w4a4"], capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        written.append(tree(tmp_path / seed))
    assert written[0] == written[1]


def test_compiling_twice_writes_the_same_bytes_and_replacing_needs_force(
    qvit: Command, inputs: Inputs, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert qvit(*inputs.arguments(first)).code == 0
    before = tree(first)
    assert qvit(*inputs.arguments(second)).code == 0
    assert tree(second) == before

    refused = qvit(*inputs.arguments(first, "--uniform", "w8a8"))
    assert refused.code == 2 and len(refused.errors) == 1 and "--force" in refused.errors[0]
    assert tree(first) == before
    replaced = qvit(*inputs.arguments(first, "--uniform", "w8a8", "--force"))
    assert replaced.code == 0 and tree(first) != before
    assert {s.w_bits for s in read_bundle(first).manifest.sites} == {8}


@pytest.mark.parametrize("score", get_args(Score))
def test_every_score_allocates_within_the_budget(qvit: Command, inputs: Inputs, tmp_path: Path, score: str) -> None:
    done = qvit(*inputs.arguments(tmp_path / "b", "--score", score, "--max-size", 0.0062, "--bits", "2,4,8", "--json"))
    assert done.code == 0, done.err
    manifest = json.loads(done.out)
    assert manifest["summary"]["weight_bytes"] <= 6200
    assert manifest["recipe"]["score"] == score
    assert {s["w_bits"] for s in manifest["sites"]} <= {2, 4, 8}
    assert sum(s["score"] for s in manifest["sites"]) == pytest.approx(1, abs=1e-3)


def test_separate_bits_give_a_layer_two_widths(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    flags = ("--bits", "2,3,5,7", "--separate-bits", "--mean-bits", 4, "--score", "exact")
    done = qvit(*inputs.arguments(tmp_path / "b", *flags, "--json"))
    assert done.code == 0, done.err
    manifest = json.loads(done.out)
    free = manifest["sites"][1:-1]
    assert any(s["w_bits"] != s["a_bits"] for s in free) and {s["w_bits"] for s in free} <= {2, 3, 5, 7}
    assert manifest["recipe"]["separate_bits"] is True


def test_a_recipe_file_quantizes_attention_too(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('attention = "integer"\nuniform = "w6a6"\ncompensate = "bias"\nfold = false\n')
    done = qvit(*inputs.arguments(tmp_path / "b", "--recipe", recipe, "--json"))
    assert done.code == 0, done.err
    manifest = json.loads(done.out)
    kinds = [s["kind"] for s in manifest["sites"]]
    assert kinds.count("matmul_qk") == kinds.count("matmul_av") == 1
    assert manifest["verification"]["integer_products"] == 10


def test_eval_and_inspect_read_what_compile_wrote(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    out = tmp_path / "b"
    assert qvit(*inputs.arguments(out, "--uniform", "w8a8")).code == 0

    evaluated = qvit("eval", out, "--data", inputs.calib, "--json", "--threads", 1)
    printed = json.loads(evaluated.out)
    assert evaluated.code == 0 and printed["n"] == 12
    assert printed["agreement"] >= 0.75 and printed["sqnr_db"] > 20 and 0 <= printed["top1"] <= 1
    model = qvit("eval", out / "model.float.onnx", "--data", inputs.calib, "--preprocess", inputs.preprocess, "--json")
    assert json.loads(model.out)["top1"] == printed["float_top1"]
    spoken = qvit("eval", out, "--data", inputs.calib)
    assert spoken.code == 0 and "top-1" in spoken.out and "n=12" in spoken.out

    inspected = json.loads(qvit("inspect", out, "--json").out)
    assert inspected["type"] == "bundle" and inspected["manifest"]["schema"] == "qvit-deploy/bundle/1"
    assert inspected["models"]["model.onnxruntime.onnx"]["quantized_products"] == 9
    lints = {name: m["lint"] for name, m in inspected["models"].items()}
    assert {name: lint["profile"] for name, lint in lints.items()} == {
        "model.float.onnx": "onnxruntime", "model.onnxruntime.onnx": "onnxruntime",
    }  # fmt: skip
    assert all(lint["counts"]["error"] == lint["counts"]["warning"] == 0 for lint in lints.values())
    listed = qvit("inspect", out)
    assert listed.code == 0 and all(name in listed.out for name in ("stem", "attn.q", "fc2", "head"))
    assert "model.float.onnx: lint for onnxruntime: nothing found" in listed.out
    alone = json.loads(qvit("inspect", out / "model.onnxruntime.onnx", "--json").out)
    assert alone["type"] == "onnx" and alone["products"] == inspected["models"]["model.onnxruntime.onnx"]["products"]
