"""The driver's functions, against a stand-in compiled here: no GPU, but real calls with real arguments in order."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.engine import gpu as cuda_driver
from qvit_deploy.targets.tensorrt.engine.gpu import CudaGraph, Gpu, find_gpu, require_gpu
from tests.support.absent_libraries import without
from tests.support.devices.driver_stand_in import compiled_driver
from tests.support.devices.recorded_device import Memory

STREAM = 0x500000000
"""A handle that does not fit 32 bits, as real ones do not."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_driver(tmp_path_factory.mktemp("driver"))


# Loaded by its own name the stand-in would be every later test's driver too, so the name is replaced here;
# tests/integration/test_bench_engines.py has processes of their own find it by LD_LIBRARY_PATH.
@pytest.fixture
def driver(library: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    without(monkeypatch, "pycuda.driver")
    monkeypatch.setattr(cuda_driver, "_NAMES", ("no such library", str(library)))
    loaded = ctypes.CDLL(str(library))
    loaded.called.restype = ctypes.c_char_p
    loaded.cuInit(0)
    return loaded


def test_the_first_gpu_is_named_with_its_capability(driver: object) -> None:
    assert find_gpu() == require_gpu("this") == Gpu("Test GPU 7", 87)


def test_a_driver_without_a_device(driver: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_DEVICE", "1")
    assert find_gpu() is None


def test_pycuda_names_the_gpu_where_it_is_installed(driver: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pycuda = Memory().install(monkeypatch)
    monkeypatch.setenv("GPU_SM", "120")
    assert find_gpu() == Gpu("Test GPU 7", 120)

    def no_device() -> None:
        raise pycuda.Error("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setattr(pycuda, "init", no_device)
    assert find_gpu() is None


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_no_driver() -> None:
    with pytest.raises(InputError, match="running it needs an NVIDIA GPU and its driver, and none was found"):
        require_gpu("running it")


def test_work_is_captured_once_and_launched_again(driver: object) -> None:
    work: list[int] = []
    graph = CudaGraph(STREAM, lambda: work.append(1))
    graph.launch()
    graph.launch()
    graph.close()
    graph.close()
    assert driver.called().split() == [  # type: ignore[attr-defined]
        b"begin", b"end", b"instantiate", b"destroy", b"launch", b"launch", b"close",
    ]  # fmt: skip
    assert work == [1]


def test_capture_ends_when_work_fails(driver: object) -> None:
    def work() -> None:
        raise InputError("enqueued nothing")

    with pytest.raises(InputError, match="enqueued nothing"):
        CudaGraph(STREAM, work)
    assert driver.called().split() == [b"begin", b"end"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("call", ["begin", "end", "instantiate"])
def test_what_the_driver_refuses_is_named(driver: object, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setenv("FAILING_CALL", call)
    with pytest.raises(InputError, match=r"the driver's cu\w+ failed with error 901"):
        CudaGraph(STREAM, lambda: None)
