"""A bundle knows what the model that was handed in calls its image, and `bench` runs on values of all inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from tests.support.command_line import Command
from tests.support.graphs.quantizable_graphs import mixed_vit

RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((20, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a ViT whose image is called `pixel_values`, beside a factor of its logits for each image."""
    folder = tmp_path_factory.mktemp("given")
    model = mixed_vit().to_proto()
    for node in model.graph.node:
        node.input[:] = ["pixel_values" if name == "image" else name for name in node.input]
        node.output[:] = ["raw" if name == "logits" else name for name in node.output]
    model.graph.input[0].name = "pixel_values"
    model.graph.input.append(onnx.helper.make_tensor_value_info("factor", onnx.TensorProto.FLOAT, ["batch", 1]))
    model.graph.node.append(onnx.helper.make_node("Mul", ["raw", "factor"], ["logits"]))
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "data.npz", pixel_values=IMAGES, factor=np.linspace(1, 2, 20, dtype=np.float32)[:, None])
    recipe = Recipe.load(None, effort="fast", uniform="w8a8", calibration_images=12)
    compile(str(folder / "m.onnx"), folder / "bundle", calib=str(folder / "data.npz"), recipe=recipe)
    return folder / "bundle"


def test_the_manifest_keeps_the_name(bundle: Path) -> None:
    assert json.loads((bundle / "manifest.json").read_text())["source"]["image_name"] == "pixel_values"
    names = [i.name for i in onnx.load(str(bundle / "model.onnxruntime.onnx")).graph.input]
    assert names == ["image", "factor"]


@pytest.mark.parametrize("name", ["pixel_values", "image", "images"])
def test_data_by_any_name(name: str, qvit: Command, bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **{name: IMAGES}, factor=np.ones((20, 1), np.float32))
    done = qvit("eval", bundle, "--data", tmp_path / "d.npz", "--json")
    assert done.code == 0 and json.loads(done.out)["sqnr_db"] > 20, done.err
    drift = qvit("relp", bundle, "--quantization", "--data", tmp_path / "d.npz", "--count", 4, "--json")
    assert drift.code == 0, drift.err
    measured = qvit(
        "bench", bundle, "--data", tmp_path / "d.npz", "--batch", 2, "--processes", 1, "--iterations", 2, "--json"
    )
    assert measured.code == 0 and json.loads(measured.out)["settings"]["batch"] == 2, measured.err


def test_what_is_missing_is_said_by_the_given_name(qvit: Command, bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", factor=np.ones((20, 1), np.float32))
    for command in ("eval", "bench"):
        done = qvit(command, bundle, "--data", tmp_path / "d.npz")
        assert done.code == 2 and "has no array for the input 'pixel_values' (it has factor)" in done.err
