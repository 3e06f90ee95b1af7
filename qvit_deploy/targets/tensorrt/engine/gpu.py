"""Finds the GPU, by pycuda where it is installed, and runs CUDA graphs, for which pycuda has no functions.

The NVIDIA driver is called through ctypes for CUDA graphs, and to find a GPU where pycuda is not installed: building
for one with TensorRT-RTX, and saying what a measurement ran on, need no pycuda.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qvit_deploy.errors import InputError

_NAMES = ("libcuda.so.1", "nvcuda.dll")
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_RELAXED = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU. `sm` is 86 for compute capability 8.6."""

    name: str
    sm: int


def pycuda_driver() -> Any | None:
    """Imports `pycuda.driver`; returns None if it is not installed or finds no NVIDIA driver to link to."""
    try:
        return importlib.import_module("pycuda.driver")
    except ImportError:
        return None


def find_gpu() -> Gpu | None:
    """Returns the first GPU that the driver lists, or None without a driver or a GPU."""
    cuda = pycuda_driver()
    return _by_driver() if cuda is None else _by_pycuda(cuda)


def _by_pycuda(cuda: Any) -> Gpu | None:
    try:
        cuda.init()
        device = cuda.Device(0)
        major, minor = device.compute_capability()
    except cuda.Error:  # there is no device, or the driver is older than the toolkit
        return None
    return Gpu(str(device.name()), 10 * int(major) + int(minor))


def _by_driver() -> Gpu | None:
    driver = _driver()
    if driver is None or driver.cuInit(0):
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, len(name), device):
        return None
    major, minor = ctypes.c_int(), ctypes.c_int()
    for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return None
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value)


def require_gpu(what: str) -> Gpu:
    """Returns the first GPU. Raises InputError saying that `what` needs one."""
    gpu = find_gpu()
    if gpu is None:
        raise InputError(f"{what} needs an NVIDIA GPU and its driver, and none was found (libcuda shows no device)")
    return gpu


class CudaGraph:
    """Captures work on a stream once, and launches it any number of times with one call each.

    Args:
        stream: handle of the stream (CUstream); not the default stream, which cannot be captured.
        work: enqueues everything on that stream, and must not synchronize with the device.

    Raises:
        InputError: a call of the driver fails; names it and its error number.
    """

    def __init__(self, stream: int, work: Callable[[], None]) -> None:
        driver = _driver()
        assert driver is not None  # there is a stream, so there is a driver
        self._driver, self._stream = driver, ctypes.c_void_p(stream)
        graph, self._launchable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture_v2", self._stream, ctypes.c_int(_RELAXED))
        try:
            work()
        finally:
            self._call("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(self._launchable), graph, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Enqueues the captured work on the stream."""
        self._call("cuGraphLaunch", self._launchable, self._stream)

    def close(self) -> None:
        """Releases the graph."""
        if self._launchable:
            self._call("cuGraphExecDestroy", self._launchable)
            self._launchable = ctypes.c_void_p()

    def _call(self, function: str, *arguments: object) -> None:
        error = getattr(self._driver, function)(*arguments)
        if error:
            raise InputError(f"CUDA graph: the driver's {function} failed with error {error}; run without a graph")


def _driver() -> ctypes.CDLL | None:
    for name in _NAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
