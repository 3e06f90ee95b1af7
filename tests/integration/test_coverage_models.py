"""Every architecture of the coverage list, random weights, uniform w8a8: compiles and passes verification, in OpenVINO
too. One of them has all its blocks; `tests/frontend/test_timm_model.py` traces all of them whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import load_model
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.pipeline.compile import Compiled, compile
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.onnxruntime import runtime as target
from tests.support.models.coverage_models import MODELS, shallow

# Coverage, not accuracy: four images and no weight regression keep this at seconds a model.
RECIPE = Recipe(uniform="w8a8", compensate="bias", calibration_images=4, batch_size=2, targets=("openvino",))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four smooth colour pictures, as an npz archive."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("calib") / "images.npz"
    np.savez(path, images=coarse.repeat(16, axis=1).repeat(16, axis=2))
    return str(path)


def _passes(compiled: Compiled, graph: Graph, sites_at_least: int) -> None:
    manifest = compiled.bundle.manifest
    checked = manifest.verification
    assert len(manifest.sites) >= sites_at_least
    assert {(s.w_bits, s.a_bits) for s in manifest.sites} == {(8, 8)}
    assert checked.code_mismatches == 0 and checked.codes is not None and checked.codes > 10_000
    assert checked.integer_products == checked.expected_integer_products
    openvino = checked.targets["openvino"].model_dump()
    assert openvino["code_mismatches"] == 0 and openvino["integer_products"] == len(manifest.sites)

    pixels = np.random.default_rng(1).standard_normal((2, *graph.interface.image_size), dtype=np.float32)
    expected = target.run(target.session(graph.serialize()), Examples.images(pixels))[0]
    with torch.no_grad():
        (logits,) = Executor(graph).run(Examples.images(torch.from_numpy(pixels))).values()
    actual = logits.numpy()
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_timm_model_compiles_and_verifies(model: str, images: str, tmp_path: Path) -> None:
    source = load_model(shallow(model))
    compiled = compile(source, tmp_path / "bundle", calib=images, recipe=RECIPE)
    _passes(compiled, source.graph, sites_at_least=13)


@pytest.mark.slow
def test_torchscript_export_compiles_and_verifies(images: str, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224").eval()
    path = tmp_path / "vit_tiny.onnx"
    torch.onnx.export(
        model, (torch.randn(1, 3, 224, 224),), str(path), dynamo=False, opset_version=14,
        input_names=["pixels"], dynamic_axes={"pixels": {0: "batch"}},
    )  # fmt: skip
    preprocess = Preprocess(input_size=(3, 224, 224), mean=(0.5,), std=(0.5,))
    source = load_model(str(path))
    compiled = compile(source, tmp_path / "bundle", calib=images, recipe=RECIPE, preprocess=preprocess)
    _passes(compiled, source.graph, sites_at_least=50)
    assert "blocks.0.attn.qkv" in {s.name for s in compiled.bundle.manifest.sites}
