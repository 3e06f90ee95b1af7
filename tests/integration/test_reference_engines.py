"""TensorRT-RTX engines of the DINOv2 reference, where it is present beside the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from measure_reference import MODEL, PREPROCESS

from qvit_deploy.build import build
from qvit_deploy.pipeline import compile
from qvit_deploy.recipe import Recipe

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference model is not beside this repository"),
]

SECONDS = 60.0


@pytest.mark.parametrize("goal", [{"uniform": "w8a8"}, {"uniform": "w6a6"}, {"mean_bits": 6}], ids=str)
def test_reference_engines_are_verified_and_built_within_a_minute(goal: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    compiled = compile(
        MODEL,
        tmp_path / "b",
        calib=str(REFERENCE / "fashion_mnist_dev.npz"),
        recipe=Recipe.load(None, targets=("tensorrt", "tensorrt-rtx", "tensorrt-plugin"), **goal),
        checkpoint=REFERENCE / "dinov2_vits14_fmnist.safetensors",
        preprocess=PREPROCESS,
    )
    profiles = compiled.bundle.manifest.verification["profiles"]
    assert isinstance(profiles, dict) and set(profiles) == {"tensorrt", "tensorrt-rtx", "tensorrt-plugin"}
    for checked in profiles.values():
        assert isinstance(checked, dict) and checked["code_mismatches"] == 0
    packed = profiles["tensorrt-plugin"]
    # Without the head, whose ten outputs no integer kernel takes, and the norm in front of it.
    assert isinstance(packed, dict) and packed["packed"] == packed["sites"] == 49 and packed["norms"] == 24
    built = build(tmp_path / "b", "tensorrt-rtx", sms=(86, 120))
    assert [one.record.build.sm for one in built] == [86, 120]
    assert all(one.record.seconds < SECONDS for one in built)
