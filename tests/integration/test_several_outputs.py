"""Models with several outputs, from the compile to the evaluation: what is counted, printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.commands.evaluate import evaluate
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.frontend import Source
from qvit_deploy.pipeline.compile import Compiled, compile
from qvit_deploy.recipe import Recipe
from tests.support.graphs.several_outputs import two_heads

PREPROCESS = Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, images=random.integers(0, 256, (48, 16, 16, 3), dtype=np.uint8), labels=np.arange(48) % 4)
    return str(path)


def compiled(images: str, out: Path, only: str | None = None, **choices: object) -> Compiled:
    recipe = Recipe.load(None, calibration_images=32, **choices)
    source = Source(two_heads(only=only, with_best="task" not in choices and only is None), None, "two heads")
    return compile(source, out, calib=images, recipe=recipe, preprocess=PREPROCESS)


def test_every_output_is_measured_and_the_worst_is_the_models(images: str, tmp_path: Path) -> None:
    manifest = compiled(images, tmp_path / "out", mean_bits=6).bundle.manifest
    written = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert written["task"] == "outputs" and written["recipe"]["task"] is None
    verification = manifest.verification
    assert set(verification.sqnr_by_output) == {"logits", "mask"}
    assert verification.float_sqnr_db == min(verification.sqnr_by_output.values()) > 10
    assert verification.float_agreement is not None and 0.5 < verification.float_agreement <= 1  # of `best`
    assert all(site.score is not None and site.score >= 0 for site in manifest.sites)
    evaluation = evaluate(tmp_path / "out", images, labels="none")
    assert evaluation.task.name == "outputs" and evaluation.sqnr_by_output is not None
    assert list(evaluation.sqnr_by_output.values()) == sorted(evaluation.sqnr_by_output.values())


def test_labels_of_classes_say_nothing_of_several_outputs(images: str, tmp_path: Path) -> None:
    compiled(images, tmp_path / "out", uniform="w8a8")
    with pytest.raises(InputError, match="task 'outputs' has no score by labels") as refused:
        evaluate(tmp_path / "out", images)
    assert "\n" not in str(refused.value)
    assert evaluate(tmp_path / "out", images, task="classify").by_labels  # the logits are there


def test_compiles_are_reproducible_although_signs_are_drawn(images: str, tmp_path: Path) -> None:
    one, other = (compiled(images, tmp_path / name, mean_bits=5).bundle for name in ("one", "other"))
    assert one.manifest.to_json() == other.manifest.to_json()


@pytest.mark.parametrize("choices", [{"score": "exact"}, {"distill_epochs": 2}, {"task": "classify"}])
def test_both_outputs_count_however_bits_are_chosen(choices: dict[str, object], images: str, tmp_path: Path) -> None:
    """Each is within 3 dB of what it gets in a model without the other, which spends its bits on it alone."""
    together = compiled(images, tmp_path / "both", mean_bits=6, **choices).bundle.manifest.verification.sqnr_by_output
    for name in ("logits", "mask"):
        rest = {n: value for n, value in choices.items() if n != "task"}
        alone = compiled(images, tmp_path / name, only=name, mean_bits=6, **rest).bundle.manifest.verification
        assert alone.float_sqnr_db is not None and together[name] > alone.float_sqnr_db - 3


def test_a_task_that_does_not_fit_is_refused_before_anything_is_computed(images: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task 'classify' needs an output of logits"):
        compiled(images, tmp_path / "out", only="mask", task="classify")
    assert not (tmp_path / "out").exists()
