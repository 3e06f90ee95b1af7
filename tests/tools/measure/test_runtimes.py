from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.onnxruntime.runtime import run, session
from tests.support.graphs.quantizable_graphs import images_for, mixed_vit
from tools.measure import runtimes as compare_runtimes

SCRIPT = Path(compare_runtimes.__file__)


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, Path]:
    """(float model, images)."""
    path, images = tmp_path / "float.onnx", tmp_path / "images.npy"
    path.write_bytes(mixed_vit().serialize())
    np.save(images, images_for(mixed_vit(), 8).numpy())
    return path, images


def products(path: Path) -> int:
    return sum(n.op_type == "QuantizeLinear" for n in onnx.load(path).graph.node)


def test_quantize_static_in_a_process_of_its_own(model: tuple[Path, Path], tmp_path: Path) -> None:
    codes = {}
    for name in ("quantize_static, MatMul", "quantize_static, MatMul by weights"):
        quantized = compare_runtimes.quantize(name, *model, tmp_path)
        assert quantized is not None and quantized.seconds and quantized.peak_memory_bytes
        codes[name] = products(quantized.path)
        images = np.load(model[1])
        expected, got = (run(session(p, 1), Examples.images(images))[0] for p in (model[0], quantized.path))
        assert np.abs(got - expected).max() < 0.5 * np.abs(expected).max()
    whole, weights = codes.values()
    assert 0 < weights < whole


def test_what_is_missing_or_fails_is_named(
    model: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        compare_runtimes.QUANTIZERS, "none", ("no_such_module", "nothing-at-all", ".onnx", lambda *_: None)
    )
    assert compare_runtimes.quantize("none", *model, tmp_path) is None
    assert "no_such_module is not installed (pip install nothing-at-all)" in capsys.readouterr().err
    assert compare_runtimes.quantize("quantize_static, MatMul", tmp_path / "none.onnx", model[1], tmp_path) is None
    assert "left out, it failed" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_table(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    commands = (
        [
            sys.executable,
            "-m",
            "qvit_deploy",
            "compile",
            "demo:vit",
            "-o",
            bundle,
            "--uniform",
            "w8a8",
            "--effort",
            "fast",
            "--target",
            "onnxruntime-fused",
        ],
        [sys.executable, SCRIPT, bundle, "--calib", "demo:fashion-mnist", "--processes", "2", "--json"],
    )
    for command in commands:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    rows = {r["file"]: r for r in json.loads(done.stdout)["rows"]}
    assert rows["float, ONNX Runtime"]["ratio"] == 1 and rows["qvit-deploy, onnxruntime"]["seconds"] > 0
    assert rows["quantize_static, MatMul"]["ms"] > 0 and rows["qvit-deploy, onnxruntime-fused"]["ms"] > 0
