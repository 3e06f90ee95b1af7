"""The driver's functions, against a stand-in compiled here: no GPU, but real calls with real arguments in order."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from qvit_deploy.errors import InputError
from qvit_deploy.targets import cuda_driver
from qvit_deploy.targets.cuda_driver import CudaGraph, Gpu, find_gpu, require_gpu

SOURCE = r"""
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
static char log_[4096];
static int answer(const char* name) {
  strcat(log_, name); strcat(log_, " ");
  const char* failing = getenv("FAILING_CALL");
  return failing && !strcmp(failing, name) ? 901 : 0;
}
const char* called(void) { return log_; }
int cuInit(unsigned flags) { log_[0] = 0; return getenv("NO_DEVICE") ? 100 : 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 7; return ordinal; }
int cuDeviceGetName(char* name, int size, int device) { snprintf(name, size, "Test GPU %d", device); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1; return device != 7; }
int cuStreamBeginCapture_v2(void* stream, int mode) {
  return stream == (void*)0x500000000 && mode == 2 ? answer("begin") : 1; }
int cuStreamEndCapture(void* stream, void** graph) { *graph = (void*)0x600000000; return answer("end"); }
int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
  *exec = (void*)0x700000000; return graph == (void*)0x600000000 && !flags ? answer("instantiate") : 1; }
int cuGraphDestroy(void* graph) { return graph == (void*)0x600000000 ? answer("destroy") : 1; }
int cuGraphLaunch(void* exec, void* stream) {
  return exec == (void*)0x700000000 && stream == (void*)0x500000000 ? answer("launch") : 1; }
int cuGraphExecDestroy(void* exec) { return exec == (void*)0x700000000 ? answer("close") : 1; }
"""
STREAM = 0x500000000
"""A handle that does not fit 32 bits, as real ones do not."""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "cuda.c"], check=True)
    return folder / "libcuda.so.1"


@pytest.fixture
def driver(library: Path, monkeypatch: pytest.MonkeyPatch) -> object:
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


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "_NAMES", ("no such library",))
    assert find_gpu() is None
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
