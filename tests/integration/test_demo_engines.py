"""Engines of the shipped models by the real TensorRT-RTX, without a GPU; each within a minute on 2 cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from qvit_deploy.artifacts.engine_record import Batch, BuildOptions, read_engine
from qvit_deploy.commands.build import build
from qvit_deploy.pipeline.compile import compile
from qvit_deploy.recipe import Recipe
from tests.support.models.demo_models import demo

pytestmark = pytest.mark.slow

SECONDS = 60.0


@pytest.mark.parametrize(("name", "sms"), [("vit", (86, 120)), ("deit", (120,)), ("swin", (86,))])
def test_demo_engines(name: str, sms: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    recipe = Recipe.load(None, effort="fast", mean_bits=5, targets=("tensorrt", "tensorrt-rtx", "tensorrt-plugin"))
    compile(demo(name), tmp_path / "b", calib="demo:fashion-mnist", recipe=recipe)
    varying = BuildOptions(batch=Batch.parse("1:4:8"))
    built = build(tmp_path / "b", "tensorrt-rtx", varying, sms=sms)
    packed = build(tmp_path / "b", "tensorrt-rtx", varying, file_for="tensorrt-plugin", sms=(86,))
    assert [one.record.build.sm for one in (*built, *packed)] == [*sms, 86]
    for one in (*built, *packed):
        assert one.record.seconds < SECONDS and one.record.build.messages == ()
        assert read_engine(one.path) == one.record
