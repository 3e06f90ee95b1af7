"""A bundle of schema 1 (the small model of tools/measure/golden.py at w8a8, compiled by 0.1.0) is read as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.artifacts.bundle import read_bundle
from tests.support.command_line import Command
from tests.support.places import REPOSITORY

BUNDLE = REPOSITORY / "tests" / "support" / "artifacts" / "bundle_schema_1"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npz"
    random = np.random.default_rng(1)
    np.savez(path, images=random.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8), labels=random.integers(0, 5, 16))
    return path


def test_its_manifest_is_written_as_it_was_read_but_for_the_digest() -> None:
    lines = read_bundle(BUNDLE).manifest.to_json().splitlines(keepends=True)
    assert [line for line in lines if not line.startswith(b'  "digest"')] == [
        *(BUNDLE / "manifest.json").read_bytes().splitlines(keepends=True)
    ]


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime-fused"])
def test_it_is_evaluated(qvit: Command, images: Path, target: str) -> None:
    result = qvit("eval", BUNDLE, "--data", images, "--profile", target, "--json")
    assert result.code == 0
    assert json.loads(result.out)["sqnr_db"] > 25


def test_it_is_inspected(qvit: Command) -> None:
    result = qvit("inspect", BUNDLE)
    assert result.code == 0
    assert "model.tensorrt-plugin.onnx" in result.out and "8 sites" in result.out


def test_it_is_measured(qvit: Command, tmp_path: Path) -> None:
    bundle = shutil.copytree(BUNDLE, tmp_path / "bundle")
    result = qvit("bench", bundle, "--processes", 1, "--iterations", 2, "--json")
    assert result.code == 0
    assert json.loads(result.out)["latency_ms"]["samples"] >= 2
