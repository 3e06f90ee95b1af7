"""What quantization did to a bundle, from its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.data.images import ImageSet, open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import BundleError, InputError
from qvit_deploy.frontend import Source
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.pipeline.explain_drift import OUTSIDE, DriftExplanation, explain_drift
from qvit_deploy.pipeline.explanation_tree import drift_tree
from qvit_deploy.pipeline.model_files import read_model
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.onnxruntime import runtime as target
from tests.support.graphs.quantizable_graphs import mixed_vit

PREPROCESS = Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("drift") / "images.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8))
    return str(path)


@pytest.fixture(scope="module", params=["float", "integer"])
def bundle(request: pytest.FixtureRequest, images: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At 4 bits, attention products in float and on integers."""
    out = tmp_path_factory.mktemp("drift") / "bundle"
    recipe = Recipe.load(None, uniform="w4a4", attention=request.param, calibration_images=32)
    compile(Source(mixed_vit(), None, "mixed"), out, calib=images, recipe=recipe, preprocess=PREPROCESS)
    return out


def explained(bundle: Path, images: ImageSet, metric: str) -> DriftExplanation:
    models = [read_model(bundle, profile, None) for profile in ("float", "onnxruntime")]
    return explain_drift(models[0], models[1], images, metric=metric, rules="gradient")


def test_effects_add_up_to_the_drift(bundle: Path, images: str) -> None:
    explanation = explained(bundle, open_images(images, PREPROCESS), "logit-diff")
    true = explanation.drift.true
    assert true.shape == (32,) and np.abs(true).max() > 0.01
    assert explanation.agreement.pearson is not None and explanation.agreement.pearson > 0.97
    assert explanation.agreement.slope == pytest.approx(1, abs=0.1)
    assert explanation.unexplained < 1e-4
    np.testing.assert_allclose(
        np.sum([s.effects for s in explanation.sites], axis=0), explanation.drift.estimated, rtol=1e-6
    )


def test_the_tree_says_where(bundle: Path, images: str) -> None:
    explanation = explained(bundle, open_images(images, PREPROCESS, limit=11), "logit:0")
    tree = drift_tree("mixed", explanation, (3, 16, 16))
    sites = {s["name"]: s for s in tree["sites"]}
    assert tree["images"] == 11 and len(sites["fc1"]["effects"]) == 11
    assert sites["fc1"]["grid"] == (0, 2, 2) and len(sites["fc1"]["tokens"]) == 4
    assert (sites["fc1"]["w_bits"], sites["stem"]["w_bits"], sites["head"]["w_bits"]) == (4, 8, 8)
    assert sites["head"]["block"] == OUTSIDE
    assert sum(s["share"] for s in tree["sites"]) == pytest.approx(tree["agreement"]["slope"], rel=1e-6)
    assert 0 < sites["fc1"]["error"] < 1


def test_counts_the_predictions_that_change(bundle: Path, images: str) -> None:
    pictures = open_images(images, PREPROCESS)
    examples = next(pictures.batches(len(pictures)))
    sessions = [target.session(bundle / f"model.{profile}.onnx") for profile in ("float", "onnxruntime")]
    classes = [target.run(s, examples)[0].argmax(1) for s in sessions]
    assert explained(bundle, pictures, "logit-diff").changed_answers == (classes[0] != classes[1]).sum()


def test_models_of_a_bundle(bundle: Path) -> None:
    clean, quantized = read_model(bundle, "float", None), read_model(bundle, "onnxruntime", None)
    assert clean.preprocess == PREPROCESS and clean.description == "mixed, float"
    ops = {node.op_type for node in quantized.graph.nodes()}
    assert "QuantizeLinear" in ops and "QuantizeLinear" not in {n.op_type for n in clean.graph.nodes()}
    with pytest.raises(BundleError, match=r"no file 'model\.tpu\.onnx'"):
        read_model(bundle, "tpu", None)


def test_a_lone_file_needs_preprocessing_of_its_size(bundle: Path, tmp_path: Path) -> None:
    file = bundle / "model.onnxruntime.onnx"
    with pytest.raises(InputError, match="pass --preprocess"):
        _ = read_model(file, "float", None).prepared
    with pytest.raises(InputError, match="preprocessing makes 3x8x8 images"):
        read_model(file, "float", Preprocess(input_size=(3, 8, 8), mean=(0.5,), std=(0.25,)))
    with pytest.raises(InputError, match=r"no bundle or \.onnx file at"):
        read_model(tmp_path / "nothing", "float", None)
    assert any(n.op_type == "QuantizeLinear" for n in read_model(file, "float", PREPROCESS).graph.nodes())
