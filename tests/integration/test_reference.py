"""The DINOv2 reference, where it is present beside the repository: the floors that published tools set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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


def _evaluated(folder: Path, goal: str, attention: Literal["float", "integer"]) -> Evaluation:
    data = str(REFERENCE / "fashion_mnist_dev.npz")
    checkpoint = REFERENCE / "dinov2_vits14_fmnist.safetensors"
    recipe = Recipe(uniform=goal, attention=attention)
    compile(MODEL, folder / "b", calib=data, recipe=recipe, checkpoint=checkpoint, preprocess=PREPROCESS)
    return evaluate(folder / "b", data)


# A point below what is measured: the order of float sums alone moves single runs by as much.
@pytest.mark.parametrize(
    ("goal", "attention", "floor"), [("w8a8", "float", 0.838), ("w6a6", "integer", 0.825), ("w4a4", "integer", 0.73)]
)
def test_top1_on_a_thousand_test_images(
    goal: str, attention: Literal["float", "integer"], floor: float, tmp_path: Path
) -> None:
    result = _evaluated(tmp_path, goal, attention)
    assert result.n == 1000
    assert result.float_top1 == pytest.approx(0.844, abs=0.003)
    assert result.top1 is not None and result.top1 >= floor
