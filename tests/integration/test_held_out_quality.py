"""The quality that a compile prints is that on images which nothing was fitted to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qvit_deploy.data.images import ImageSet, open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.targets.session import open_model, outputs
from qvit_deploy.tasks.classify import CLASSIFY
from tests.support.command_line import Command, Inputs


def quality(bundle: Path, images: ImageSet) -> tuple[float, float]:
    """(SQNR, agreement) of a bundle's quantized model against its float model."""
    float_outputs, measured = (
        outputs(open_model((bundle / f"model.{name}.onnx").read_bytes()), images, lambda _: None)
        for name in ("float", "onnxruntime")
    )
    return CLASSIFY.sqnr_db(float_outputs, measured), CLASSIFY.agreement(float_outputs, measured)


def compiled(qvit: Command, inputs: Inputs, out: Path, *flags: object) -> dict[str, Any]:
    done = qvit(*inputs.arguments(out, "--json", *flags))
    assert done.code == 0, done.err
    tree: dict[str, Any] = json.loads(done.out)
    return tree


def with_calib(inputs: Inputs, path: Path, count: int) -> Inputs:
    np.savez(path, images=np.random.default_rng(2).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))
    return Inputs(inputs.model, path, inputs.preprocess)


def test_the_quality_is_that_on_images_calibration_did_not_use(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    tree = compiled(qvit, inputs, tmp_path / "b")
    preprocess = Preprocess.from_file(inputs.preprocess)
    drawn = open_images(str(inputs.calib), preprocess, limit=8)
    others = open_images(str(inputs.calib), preprocess).without(drawn)
    verification = tree["verification"]
    assert tree["calibration"] == {"images": 8, "sha256": drawn.digest}
    assert verification["held_out"] is True and verification["images"] == len(others) == 4
    sqnr, agreement = quality(tmp_path / "b", others)
    # The manifest's float model is the source's, before the folds.
    assert verification["float_sqnr_db"] == pytest.approx(sqnr, abs=0.05)
    assert verification["float_agreement"] == agreement
    assert abs(quality(tmp_path / "b", drawn)[0] - sqnr) > 0.1
    assert "4 images, others of the same data" in (tmp_path / "b" / "report.html").read_text()
    assert "(n=4 held-out images)" in qvit(*inputs.arguments(tmp_path / "c")).out


def test_where_the_data_have_too_few_others_a_share_is_kept_apart(
    qvit: Command, inputs: Inputs, tmp_path: Path
) -> None:
    few = with_calib(inputs, tmp_path / "few.npz", 20)
    tree = compiled(qvit, few, tmp_path / "b", "--images", 18)
    assert tree["calibration"]["images"] == 15 and tree["verification"]["images"] == 5
    assert tree["verification"]["held_out"] is True and tree["recipe"]["calibration_images"] == 18
    done = qvit(*few.arguments(tmp_path / "c", "--images", 18))
    assert "on 15 images, 18 wanted; 5 were kept apart to measure on" in done.out


def test_with_too_few_images_for_that_it_says_so(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    tree = compiled(qvit, inputs, tmp_path / "b", "--images", 12)
    assert tree["calibration"]["images"] == tree["verification"]["images"] == 12
    assert tree["verification"]["held_out"] is False
    done = qvit(*inputs.arguments(tmp_path / "c", "--images", 12))
    assert "n=12, those of calibration: the data have too few others" in done.out
    report = (tmp_path / "b" / "report.html").read_text()
    assert "that calibration used: data had too few others" in report
    assert "12 images, those of calibration: the data have too few others" in report


def test_the_image_files_are_the_same_whatever_is_held_out(qvit: Command, inputs: Inputs, tmp_path: Path) -> None:
    """Only the images that are drawn for calibration decide what is written."""
    preprocess = Preprocess.from_file(inputs.preprocess)
    drawn = set(open_images(str(inputs.calib), preprocess, limit=8).names)
    pixels = dict(np.load(inputs.calib))
    others = [i for i in range(12) if f"images[{i}]" not in drawn]
    pixels["images"][others] ^= 1
    np.savez(tmp_path / "other.npz", **pixels)
    changed = Inputs(inputs.model, tmp_path / "other.npz", inputs.preprocess)
    first = compiled(qvit, inputs, tmp_path / "b", "--cache", tmp_path / "cache")
    second = compiled(qvit, changed, tmp_path / "c", "--cache", tmp_path / "cache")
    assert "round" not in second["seconds"]  # from the cache
    models = {n for n in first["files"] if n.endswith(".onnx")}
    assert models and all(first["files"][n] == second["files"][n] for n in models)
    assert first["calibration"] == second["calibration"]
    assert first["verification"]["float_sqnr_db"] != second["verification"]["float_sqnr_db"]
