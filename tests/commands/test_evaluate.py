from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qvit_deploy.artifacts.bundle import Bundle, Summary, write_bundle
from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import BundleError, InputError
from qvit_deploy.graph.graph import Graph
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.metrics import sqnr_db
from tests.support.graphs.quantizable_graphs import calibrate, fixed_batch, logits, mixed_vit

PREPROCESS = Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,))
COUNT = 21


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pixels(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([PREPROCESS.apply(p) for p in pictures]))


@pytest.fixture(scope="module")
def float_logits(pixels: torch.Tensor) -> np.ndarray:
    return logits(mixed_vit(), pixels)


@pytest.fixture(scope="module")
def quantized() -> Graph:
    calibrated = calibrate(mixed_vit(), (3,))
    return emit_qdq(calibrated.graph, calibrated.plan((3, 3)))


@pytest.fixture
def labelled(tmp_path: Path, pictures: np.ndarray, float_logits: np.ndarray) -> str:
    """What the float model says, except for the first six images."""
    labels = float_logits.argmax(1)
    labels[:6] = (labels[:6] + 1) % 5
    np.savez(tmp_path / "labelled.npz", images=pictures, labels=labels)
    return str(tmp_path / "labelled.npz")


@pytest.fixture
def unlabelled(tmp_path: Path, pictures: np.ndarray) -> str:
    np.savez(tmp_path / "plain.npz", images=pictures)
    return str(tmp_path / "plain.npz")


@pytest.fixture
def bundle(tmp_path: Path, quantized: Graph) -> Bundle:
    manifest = {
        "source": {"model": "mixed", "preprocess": PREPROCESS.model_dump(mode="json")},
        "recipe": {},
        "sites": [],
        "summary": Summary(
            mean_w_bits=3, mean_a_bits=3, weight_bytes=1, float_weight_bytes=2, bitops=1, float_bitops=2
        ),
        "verification": {},
    }
    files = {"model.onnxruntime.onnx": quantized.serialize(), "model.float.onnx": mixed_vit().serialize()}
    return write_bundle(tmp_path / "bundle", manifest=manifest, files=files, force=False)


def test_a_bundle_is_compared_with_its_float_model(
    bundle: Bundle, labelled: str, quantized: Graph, pixels: torch.Tensor, float_logits: np.ndarray
) -> None:
    evaluation = evaluate(bundle.root, labelled, threads=1)
    mine = logits(quantized, pixels)
    assert evaluation.n == COUNT and evaluation.float_top1 == pytest.approx((COUNT - 6) / COUNT)
    assert evaluation.agreement == CLASSIFY.agreement({"logits": float_logits}, {"logits": mine})
    assert 0 < evaluation.agreement < 1  # three bits: some images change class, not all
    assert evaluation.sqnr_db == pytest.approx(sqnr_db(float_logits, mine), abs=0.05)
    labels = np.load(labelled)["labels"]
    assert evaluation.top1 == pytest.approx((mine.argmax(1) == labels).mean())


def test_images_without_labels_have_no_top_1(bundle: Bundle, unlabelled: str) -> None:
    evaluation = evaluate(bundle.root, unlabelled, threads=1)
    assert evaluation.top1 is None and evaluation.float_top1 is None and evaluation.agreement is not None


def test_a_lone_onnx_file_needs_a_preprocessing_and_has_nothing_to_compare_with(tmp_path: Path, labelled: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(mixed_vit().serialize())
    evaluation = evaluate(path, labelled, preprocess=PREPROCESS, threads=1)
    assert evaluation.top1 == pytest.approx((COUNT - 6) / COUNT)
    assert (evaluation.float_top1, evaluation.agreement, evaluation.sqnr_db) == (None, None, None)
    with pytest.raises(InputError, match="pass --preprocess"):
        evaluate(path, labelled)


def test_a_fixed_batch_gives_the_same_result(tmp_path: Path, labelled: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(fixed_batch(mixed_vit(), 4).serialize())
    evaluation = evaluate(path, labelled, preprocess=PREPROCESS, threads=1)
    assert evaluation.n == COUNT and evaluation.top1 == pytest.approx((COUNT - 6) / COUNT)


def test_a_limit_is_kept(bundle: Bundle, labelled: str) -> None:
    assert evaluate(bundle.root, labelled, limit=5, threads=1).n == 5


def test_what_cannot_be_evaluated(bundle: Bundle, labelled: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no bundle or \.onnx file at"):
        evaluate(tmp_path / "none", labelled)
    with pytest.raises(BundleError, match=r"has no file 'model\.tensorrt\.onnx'"):
        evaluate(bundle.root, labelled, target="tensorrt")
    other = Preprocess(input_size=(3, 8, 8), mean=(0.5,), std=(0.25,))
    with pytest.raises(InputError, match=r"makes 3x8x8 images, .*onnxruntime\.onnx takes 3x16x16"):
        evaluate(bundle.root, labelled, preprocess=other, threads=1)
    (bundle.root / "model.float.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"model\.float\.onnx was modified"):
        evaluate(bundle.root, labelled)
