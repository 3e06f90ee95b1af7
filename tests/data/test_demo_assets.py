"""The shipped reference models and images are what `tools/train/reference.py` promises."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
safetensors_torch = pytest.importorskip("safetensors.torch")

import qvit_deploy  # noqa: E402

DEMO = Path(qvit_deploy.__file__).parent / "data" / "demo"
NAMES = ("vit", "deit", "swin")


@cache
def models() -> dict[str, dict[str, Any]]:
    return json.loads((DEMO / "models.json").read_text())


@cache
def images() -> dict[str, np.ndarray]:
    with np.load(DEMO / "fashion_mnist.npz", allow_pickle=False) as archive:
        return dict(archive)


@cache
def weights(name: str) -> dict[str, Any]:
    return safetensors_torch.load_file(DEMO / f"{name}.safetensors")


@cache
def model(name: str) -> Any:
    entry = models()[name]
    built = timm.create_model(entry["timm_name"], pretrained=False, **entry["kwargs"])
    built.load_state_dict(weights(name), strict=True)
    return built.eval()


@cache
def logits(name: str) -> Any:
    """Logits [1000, 10] of the shipped test images, preprocessed as `models.json` says."""
    preprocess = models()[name]["preprocess"]
    channels, height, width = preprocess["input_size"]
    u8 = torch.from_numpy(images()["test_images"])
    assert u8.shape[1:] == (height, width), "no resizing needed"
    mean, std = (torch.tensor(preprocess[k]).view(-1, 1, 1) for k in ("mean", "std"))
    x = ((u8[:, None] / 255).expand(-1, channels, -1, -1) - mean) / std
    with torch.inference_mode():
        return torch.cat([model(name)(batch) for batch in x.split(250)])


def test_images_are_uint8_without_pickle() -> None:
    data = images()
    assert set(data) == {"calib_images", "calib_labels", "test_images", "test_labels", "class_names"}
    for split, n in (("calib", 512), ("test", 1000)):
        pictures, labels = data[f"{split}_images"], data[f"{split}_labels"]
        assert pictures.dtype == np.uint8 and pictures.shape == (n, 28, 28)
        assert labels.dtype == np.int64 and labels.shape == (n,)
        assert set(labels.tolist()) == set(range(10))
        assert pictures.max() == 255 and pictures.reshape(n, -1).std(axis=1).min() > 0
    assert np.bincount(data["test_labels"]).tolist() == [100] * 10
    assert data["class_names"].shape == (10,) and data["class_names"].dtype.kind == "U"


def test_test_images_are_not_calibration_images() -> None:
    data = images()
    calib = {image.tobytes() for image in data["calib_images"]}
    assert not any(image.tobytes() in calib for image in data["test_images"])


def test_models_json_lists_exactly_the_shipped_models() -> None:
    assert tuple(models()) == NAMES
    assert {p.stem for p in DEMO.glob("*.safetensors")} == set(NAMES)


def test_the_data_stays_small() -> None:
    assert sum(p.stat().st_size for p in DEMO.iterdir()) < 8_000_000


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete(name: str) -> None:
    entry = models()[name]
    assert set(entry) == {"timm_name", "kwargs", "preprocess", "parameters", "top1", "epochs", "seed"}
    preprocess = entry["preprocess"]
    assert set(preprocess) == {"input_size", "mean", "std", "interpolation", "crop_pct", "color"}
    assert len(preprocess["mean"]) == len(preprocess["std"]) == preprocess["input_size"][0]
    assert entry["kwargs"]["in_chans"] == preprocess["input_size"][0]
    assert preprocess["color"] in ("grey", "rgb")
    assert entry["top1"] >= 0.88


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_finite_float16_and_fit_the_model(name: str) -> None:
    assert all(t.dtype == torch.float16 and t.isfinite().all() for t in weights(name).values())
    parameters = sum(p.numel() for p in model(name).parameters())
    assert parameters == models()[name]["parameters"] <= 1_500_000


def test_deit_has_a_distillation_token_and_two_heads() -> None:
    assert {"dist_token", "head.weight", "head_dist.weight"} <= set(weights("deit"))


def test_swin_has_two_stages_with_merging_and_a_shifted_window() -> None:
    swin = model("swin")
    assert len(swin.layers) >= 2
    assert any(type(m).__name__ == "PatchMerging" for m in swin.modules())
    assert any(max(block.shift_size) > 0 for stage in swin.layers for block in stage.blocks)


@pytest.mark.parametrize("name", NAMES)
def test_top1_on_the_shipped_test_images(name: str) -> None:
    labels = torch.from_numpy(images()["test_labels"])
    top1 = (logits(name).argmax(1) == labels).float().mean().item()
    assert top1 >= 0.86
    assert abs(top1 - models()[name]["top1"]) < 0.03, "a draw of 1,000 cannot be that far from the whole test set"
