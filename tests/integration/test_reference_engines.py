"""TensorRT-RTX engines of the DINOv2 reference, where it is present beside the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qvit_deploy.commands.build import build
from qvit_deploy.recipe import Recipe
from tests.support.models.reference_model import Reference

pytestmark = pytest.mark.slow

TARGETS = ("tensorrt", "tensorrt-rtx", "tensorrt-plugin")
SECONDS = 60.0


@pytest.mark.parametrize(
    ("goal", "sms"),
    [({"uniform": "w8a8"}, (86, 120)), ({"mean_bits": 6}, (120,))],
    ids=["w8a8", "mean 6"],
)
def test_reference_engines_are_verified_and_built_within_a_minute(
    reference: Reference, goal: dict[str, Any], sms: tuple[int, ...], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    compiled = reference.compile(tmp_path / "b", Recipe.load(None, targets=TARGETS, **goal))
    profiles = compiled.bundle.manifest.verification.model_dump(by_alias=True)["profiles"]
    assert isinstance(profiles, dict) and set(profiles) == set(TARGETS)
    for checked in profiles.values():
        assert isinstance(checked, dict) and checked["code_mismatches"] == 0
    packed = profiles["tensorrt-plugin"]
    # Without the head, whose ten outputs no integer kernel takes, and the norm in front of it.
    assert isinstance(packed, dict) and packed["packed"] == packed["sites"] == 49 and packed["norms"] == 24
    built = build(tmp_path / "b", "tensorrt-rtx", sms=sms)
    assert [one.record.build.sm for one in built] == list(sms)
    assert all(one.record.seconds < SECONDS for one in built)
