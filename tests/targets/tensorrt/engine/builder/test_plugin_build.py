"""Compiling the plugin library: what is missing is said in one line, and the wheel holds all it takes."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.recipe import tomllib
from qvit_deploy.targets.tensorrt.engine.builder import plugin_build
from qvit_deploy.targets.tensorrt.engine.builder.plugin_build import HEADER, LIBRARY, build_plugin, find_tools, sources
from qvit_deploy.targets.tensorrt.engine.gpu import find_gpu
from tests.support.devices.libqvit import Grid, KernelError, Library, Linear, Type
from tests.support.devices.plugin_toolchain import NVCC, PluginToolchain
from tests.support.places import REPOSITORY

ROOT = REPOSITORY


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PluginToolchain:
    return PluginToolchain(tmp_path, monkeypatch)


def test_the_tools_of_a_whole_machine(machine: PluginToolchain) -> None:
    tools = find_tools(None)
    assert tools.nvcc_version == (12, 6) and tools.tensorrt == (10, 3) and tools.headers == machine.headers


def test_the_version_of_11_stands_behind_another_name(machine: PluginToolchain) -> None:
    (machine.headers / "NvInferVersion.h").write_text(
        "#define TRT_MAJOR_ENTERPRISE 11\n#define TRT_MINOR_ENTERPRISE 1\n"
        "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE\n"
    )
    assert find_tools(None).tensorrt == (11, 1)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("cmake", "sudo apt install cmake"),
        ("g++", "sudo apt install g\\+\\+"),
        ("make", "sudo apt install make"),
        ("nvcc", "nvidia-jetpack"),
    ],
)
def test_a_missing_tool_is_named(machine: PluginToolchain, missing: str, said: str) -> None:
    (machine.bin / missing).unlink()
    with pytest.raises(InputError, match=said):
        build_plugin(sms=(87,))


def test_headers_that_are_missing_or_old(
    machine: PluginToolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=rf"has no {HEADER}"):
        build_plugin(sms=(87,), headers=tmp_path)
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path))
    with pytest.raises(InputError, match=rf"has no {HEADER}"):
        build_plugin(sms=(87,))
    monkeypatch.delenv("TENSORRT_INCLUDE_DIR")
    machine.tensorrt(10, 2)
    with pytest.raises(InputError, match=r"TensorRT 10\.2, and the plugins need 10\.3"):
        build_plugin(sms=(87,))
    (machine.headers / "NvInferVersion.h").unlink()
    with pytest.raises(InputError, match="does not tell the version of TensorRT"):
        build_plugin(sms=(87,))
    (machine.headers / HEADER).unlink()
    with pytest.raises(InputError, match="libnvinfer-headers-dev"):
        build_plugin(sms=(87,))


def test_a_toolkit_that_is_too_old_or_does_not_know_the_gpu(machine: PluginToolchain) -> None:
    with pytest.raises(InputError, match="does not compile for SM120, only for 75, 87"):
        build_plugin(sms=(87, 120))
    machine.tool("nvcc", NVCC.format(version="11.4"))
    with pytest.raises(InputError, match=r"is CUDA 11\.4, and the kernels need 12\.0"):
        build_plugin(sms=(87,))
    machine.tool("nvcc", "#!/bin/sh\nexit 1\n")
    with pytest.raises(InputError, match="does not tell its version"):
        build_plugin(sms=(87,))


def test_no_gpu_and_no_sm(machine: PluginToolchain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_build, "find_gpu", lambda: None)  # also on a machine that has one
    with pytest.raises(InputError, match="--sm 87"):
        build_plugin()


def test_what_does_not_compile_says_why_and_leaves_nothing(machine: PluginToolchain, tmp_path: Path) -> None:
    machine.tool("cmake", "#!/bin/sh\necho fine\necho 'qlinear.cu(3): error: no'\nexit 1\n")
    with pytest.raises(InputError, match=r"do not compile: qlinear\.cu\(3\): error: no$"):
        build_plugin(sms=(87,), out=tmp_path / "out" / LIBRARY)
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_what_was_compiled_is_kept_by_sources_tools_and_gpus(machine: PluginToolchain, tmp_path: Path) -> None:
    machine.compiles()
    first = build_plugin(sms=(87,))
    again = build_plugin(sms=(87, 87), out=tmp_path / LIBRARY)
    assert not first.cached and again.cached and again.path.read_bytes() == first.path.read_bytes() == b"x"
    with pytest.raises(InputError, match="--force"):
        build_plugin(sms=(87,), out=tmp_path / LIBRARY)
    other = build_plugin(sms=(75,))
    machine.tensorrt(10, 16)
    newer = build_plugin(sms=(87,))
    assert len({first.path, other.path, newer.path}) == 3 and not other.cached and not newer.cached
    assert machine.configured.read_text() == "..."
    assert not build_plugin(sms=(87,), force=True).cached


def test_the_packages_of_the_wheel_are_those_of_the_tree() -> None:
    tree = {str(p.parent.relative_to(ROOT)).replace(os.sep, ".") for p in (ROOT / "qvit_deploy").rglob("__init__.py")}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted({*tree, "qvit_deploy.kernels"})
    assert sources() == ROOT / "kernels"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, unpacked."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("qvit_deploy", "kernels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    with zipfile.ZipFile(folder / done.stdout.split()[-1]) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_the_wheel_holds_what_cmake_and_the_compiler_read(wheel: Path) -> None:
    kernels = wheel / "qvit_deploy" / "kernels"
    for part in ("include", "src", "plugin"):
        ours = {p.relative_to(ROOT / "kernels") for p in (ROOT / "kernels" / part).rglob("*") if p.is_file()}
        assert ours and ours <= {p.relative_to(kernels) for p in kernels.rglob("*")}
    for file in (*kernels.rglob("*.cu"), *kernels.rglob("*.cuh"), *(kernels / "plugin").glob("*plugin.*")):
        for name in re.findall(r'#include "(.+)"', file.read_text()):
            if not file.name.startswith("test_"):
                assert any((place / name).is_file() for place in (kernels / "include", file.parent)), f"{file}: {name}"
    if shutil.which("cmake") and shutil.which("g++"):
        build = wheel / "build"
        command = ["cmake", "-S", str(kernels), "-B", str(build), "-DQVIT_TESTS=OFF", "-DQVIT_CUDA=OFF"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_installed_package_compiles_its_plugins(wheel: Path, tmp_path: Path) -> None:
    """With the real nvcc and TensorRT's real headers, as `qvit-deploy build-plugin` on a device."""
    try:
        find_tools(None)
    except InputError as error:
        pytest.skip(f"the plugins are not compiled: {error}")
    environment = {**os.environ, "PYTHONPATH": str(wheel), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "qvit_deploy", "build-plugin", "--sm", "87", "--json"]
    copied = [*command, "-o", str(tmp_path / LIBRARY)]
    done = subprocess.run(copied, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert told["sms"] == [87] and not told["cached"] and told["bytes"] == (tmp_path / LIBRARY).stat().st_size
    library = ctypes.CDLL(str(tmp_path / LIBRARY))
    count = ctypes.c_int32()
    library.getCreators.restype = ctypes.c_void_p
    assert library.getCreators(ctypes.byref(count)) and count.value == 7
    if find_gpu() is None:
        kernels, grid = Library(tmp_path / LIBRARY), Grid(1.0, 0.0, 8)
        memory = np.zeros(4096, np.uint8)
        address = memory.ctypes.data + -memory.ctypes.data % 16
        linear = Linear(*[address] * 5, 8, 8, 64, 64, 8, Type.FLOAT32, Type.FLOAT32, 8, grid, grid, 0)
        with pytest.raises(KernelError, match=r"CUDA reported an error.* \(status 10\)"):
            kernels.linear(linear, 0)
        assert not memory.any()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and json.loads(again.stdout)["cached"]
