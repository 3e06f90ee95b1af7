"""Compiles models that have nothing to do for the rules: no image, no norm, no activation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe

RNG = np.random.default_rng(0)


def saved(path: Path, inputs: str, body: str) -> str:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : 17]> g ({inputs}) => (float[N,4,8] y) {{ {body} }}'
    )
    for name in ("w1", "w2"):
        weight = RNG.standard_normal((16, 16) if name == "w1" else (16, 8)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("softmax", [False, True])
def test_a_decoder_of_embeddings_compiles_with_a_budget(
    softmax: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    middle = "s = Softmax <axis = -1> (h)" if softmax else "s = Neg(h)"
    body = f"h = MatMul(image_embeddings, w1) {middle} y = MatMul(s, w2)"
    model = saved(tmp_path / "decoder.onnx", "float[N,4,16] image_embeddings", body)
    np.savez(tmp_path / "data.npz", image_embeddings=RNG.standard_normal((24, 4, 16)).astype(np.float32))
    recipe = Recipe.load(None, mean_bits=6, calibration_images=16)
    compile(model, tmp_path / "out", calib=str(tmp_path / "data.npz"), recipe=recipe)
    assert "row importance: the model has nothing that a rule of 'relp' applies to" in caplog.text
    relevance = json.loads((tmp_path / "out" / "manifest.json").read_text())["relevance"]
    assert relevance["row_importance"] == "gradient"


def test_an_image_goes_by_its_name_in_the_file(tmp_path: Path) -> None:
    model = saved(
        tmp_path / "small.onnx", "float[N,1,4,16] pixel_values",
        "shape = Constant <value_ints = [0, 4, 16]> () x = Reshape(pixel_values, shape) h = MatMul(x, w1) s = Relu(h) "
        "y = MatMul(s, w2)",
    )  # fmt: skip
    np.savez(tmp_path / "data.npz", pixel_values=RNG.standard_normal((24, 1, 4, 16)).astype(np.float32))
    recipe = Recipe.load(None, mean_bits=6, calibration_images=16)
    compile(model, tmp_path / "out", calib=str(tmp_path / "data.npz"), recipe=recipe)
    assert (tmp_path / "out" / "manifest.json").is_file()
