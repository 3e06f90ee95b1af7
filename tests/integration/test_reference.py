"""The DINOv2 reference, where it is present beside the repository: the floors that published tools set."""

from __future__ import annotations

from pathlib import Path

import pytest
from measure_reference import MODEL, PREPROCESS

from qvit_deploy.evaluate import Evaluation, evaluate
from qvit_deploy.pipeline import compile
from qvit_deploy.recipe import Recipe

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference model is not beside this repository"),
]


def _evaluated(folder: Path, goal: str) -> Evaluation:
    data = str(REFERENCE / "fashion_mnist_dev.npz")
    checkpoint = REFERENCE / "dinov2_vits14_fmnist.safetensors"
    recipe = Recipe(uniform=goal, attention="integer")
    compile(MODEL, folder / "b", calib=data, recipe=recipe, checkpoint=checkpoint, preprocess=PREPROCESS)
    return evaluate(folder / "b", data)


@pytest.mark.parametrize(("goal", "floor"), [("w8a8", 0.84), ("w6a6", 0.83), ("w4a4", 0.75)])
def test_top1_on_a_thousand_test_images(goal: str, floor: float, tmp_path: Path) -> None:
    result = _evaluated(tmp_path, goal)
    assert result.n == 1000
    assert result.float_top1 == pytest.approx(0.844, abs=0.003)
    assert result.top1 is not None and result.top1 >= floor
