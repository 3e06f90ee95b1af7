from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from qvit_deploy.artifacts.engine_record import Batch, BuildOptions
from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine.builder.trtexec import check_version, trtexec_commands
from tests.support.devices.recorded_tensorrt import RECORDINGS

OPTIONS = json.loads((RECORDINGS / "trtexec_options.json").read_text())
"""Version -> options that trtexec of that tag reads, from NVIDIA/TensorRT's samples/common/sampleOptions.cpp."""


def commands(version: str, **changes: object) -> tuple[list[str], list[str]]:
    options: dict[str, Any] = {
        "batch": Batch(least=1, best=4, most=8), "plugins": (Path("lib q.so"),), "hardware": "ampere-plus",
        "timing_cache": Path("t.cache"), "workspace_mb": 512, **changes,
    }  # fmt: skip
    shapes = {"image": (3, 224, 224)}
    build, time = trtexec_commands(
        Path("m.onnx"), Path("m.engine"), check_version(version), shapes, BuildOptions(**options)
    )
    return shlex.split(build), shlex.split(time)


@pytest.mark.parametrize("version", sorted(OPTIONS))
def test_every_flag_exists_in_that_version(version: str) -> None:
    for command in commands(version):
        assert command[0] == "trtexec"
        flags = {word.partition("=")[0].removeprefix("--") for word in command[1:]}
        assert flags <= set(OPTIONS[version]), version
        assert not flags & {"fp16", "int8"}


def test_strong_typing_and_timing_defaults_follow_the_version() -> None:
    old, new = commands("10.3"), commands("11.4.0")
    assert "--stronglyTyped" in old[0] and "--stronglyTyped" not in new[0]
    timing = {"--noDataTransfers", "--useSpinWait", "--useCudaGraph"}
    assert timing <= set(old[1]) and not timing & set(new[1])


def test_shapes_plugins_and_files() -> None:
    build, time = commands("10.16")
    assert {
        "--minShapes=image:1x3x224x224", "--optShapes=image:4x3x224x224", "--maxShapes=image:8x3x224x224",
        "--staticPlugins=lib q.so", "--hardwareCompatibilityLevel=ampere+", "--timingCacheFile=t.cache",
        "--memPoolSize=workspace:512", "--exportLayerInfo=m.layers.json", "--saveEngine=m.engine", "--onnx=m.onnx",
    } <= set(build)  # fmt: skip
    assert {"--shapes=image:4x3x224x224", "--loadEngine=m.engine", "--staticPlugins=lib q.so"} <= set(time)


def test_same_capability_came_with_10_9() -> None:
    build, _ = commands("10.9", hardware="same-capability")
    assert "--hardwareCompatibilityLevel=sameComputeCapability" in build
    with pytest.raises(InputError, match=r"10\.9"):
        commands("10.3", hardware="same-capability")


@pytest.mark.parametrize("version", ["", "8.6", "10.2", "12.0", "latest"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(InputError, match=r"from 10\.3 to 11\.x"):
        check_version(version)
