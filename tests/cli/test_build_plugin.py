"""`build-plugin`: what it says of the library it compiled, or had compiled before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qvit_deploy.targets.tensorrt.engine.builder.plugin_build import LIBRARY
from tests.support.command_line import Command
from tests.support.devices.plugin_toolchain import PluginToolchain


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginToolchain:
    return PluginToolchain(tmp_path, monkeypatch)


def test_the_library_its_gpus_and_its_tools_are_named(machine: PluginToolchain, qvit: Command, tmp_path: Path) -> None:
    machine.compiles()
    out = tmp_path / "out" / LIBRARY
    first = qvit("build-plugin", "--sm", 87, "--sm", 75, "-o", out)
    assert first.code == 0, first.err
    assert first.out == f"{out}: SM75, 87, 0.00 MB, TensorRT 10.3, CUDA 12.6, compiled in 0 s\n"
    again = qvit("build-plugin", "--sm", 75, "--sm", 87)
    assert again.out.endswith("TensorRT 10.3, CUDA 12.6, compiled before\n")


def test_json_says_the_same(machine: PluginToolchain, qvit: Command) -> None:
    machine.compiles()
    tree = json.loads(qvit("build-plugin", "--sm", 87, "--json").out)
    assert Path(tree["path"]).read_bytes() == b"x" and tree["bytes"] == 1 and tree["seconds"] >= 0
    assert (tree["sms"], tree["cached"], tree["tensorrt"], tree["cuda"]) == ([87], False, [10, 3], [12, 6])


def test_a_machine_without_the_tools_is_exit_code_2(machine: PluginToolchain, qvit: Command) -> None:
    (machine.bin / "cmake").unlink()
    done = qvit("build-plugin", "--sm", 87)
    assert done.code == 2 and done.out == "" and len(done.errors) == 1 and "cmake" in done.errors[0]
