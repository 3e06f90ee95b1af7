"""The kernels' C interface (`kernels/include/qvit/qvit.h`) from Python: structures, and statuses as exceptions.

Pointers are plain addresses: device memory for the library built for GPUs, host memory for the emulated one of the
kernels' tests. Every status but success raises `KernelError`; nothing falls back.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from pathlib import Path

from qvit_deploy.errors import InputError, QvitError


class KernelError(QvitError):
    """A kernel refused its arguments or could not run; `status` is the QvitStatus of qvit.h."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"qvit kernels: {message} (status {status})")
        self.status = status
        self.message = message

    def __reduce__(self) -> tuple[type[KernelError], tuple[int, str]]:
        return type(self), (self.status, self.message)


class Type(IntEnum):
    """QvitType: how the elements of a tensor lie in memory."""

    FLOAT16 = 0
    FLOAT32 = 1
    CODES8 = 2
    CODES4 = 3


class Grid(ctypes.Structure):
    """QvitGrid: code = clamp(round_half_even((x + shift) / scale), -2^(bits-1), 2^(bits-1)-1)."""

    _fields_ = (("scale", ctypes.c_float), ("shift", ctypes.c_float), ("bits", ctypes.c_int32))


class Linear(ctypes.Structure):
    """QvitLinear; strides are in elements, pointers are addresses that are multiples of 16."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "weight_scale", "bias", "y")),
        *((name, ctypes.c_int32) for name in ("m", "n", "k", "x_stride", "y_stride", "x_type", "y_type")),
        ("weight_bits", ctypes.c_int32),
        ("x_grid", Grid),
        ("y_grid", Grid),
        ("gelu", ctypes.c_int32),
    )


class LogAttention(ctypes.Structure):
    """QvitLogAttention; strides are in elements, pointers are addresses that are multiples of 16."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("scores", "values", "out")),
        *((name, ctypes.c_int32) for name in ("batch", "queries", "keys", "width")),
        *((name, ctypes.c_int32) for name in ("score_stride", "value_stride", "out_stride", "type", "steps", "bits")),
        ("largest", ctypes.c_float),
        ("by_row", ctypes.c_int32),
        ("value_grid", Grid),
    )


class Tactic(ctypes.Structure):
    """QvitTactic: the tile of a block, its warps, and into how many parts K is split."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("tile_m", "tile_n", "tile_k", "warps", "stages", "split_k"))


class Library:
    """A loaded libqvit.

    Raises:
        InputError: the file is not there or is no libqvit.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.c = ctypes.CDLL(str(path))
            self.c.qvit_status_string.restype = ctypes.c_char_p
            self.c.qvit_linear_workspace.restype = ctypes.c_int64
            address, size = ctypes.c_void_p, ctypes.c_int64
            self.c.qvit_linear.argtypes = [ctypes.POINTER(Linear), ctypes.c_int, address, size, address]
            self.c.qvit_softmax_log2_av.argtypes = [ctypes.POINTER(LogAttention), address]
        except (OSError, AttributeError) as error:
            raise InputError(f"{path}: not a library of qvit kernels: {error}") from error

    def check(self, status: int) -> None:
        """Raises KernelError unless `status` is QVIT_OK."""
        if status:
            raise KernelError(status, self.c.qvit_status_string(status).decode())

    def tactics(self) -> list[Tactic]:
        """What each tactic is; its place is its id."""
        tactics = [Tactic() for _ in range(self.c.qvit_linear_tactics())]
        for index, tactic in enumerate(tactics):
            self.check(self.c.qvit_linear_tactic(index, ctypes.byref(tactic)))
        return tactics

    def workspace_bytes(self, linear: Linear, tactic: int) -> int:
        """Bytes of device memory that `linear` needs with a tactic."""
        size = int(self.c.qvit_linear_workspace(ctypes.byref(linear), tactic))
        self.check(max(0, -size))
        return size

    def linear(
        self, linear: Linear, tactic: int, workspace: int = 0, workspace_bytes: int = 0, stream: int = 0
    ) -> None:
        """Queues the layer on a CUDA stream (0: the default one)."""
        self.check(self.c.qvit_linear(ctypes.byref(linear), tactic, workspace, workspace_bytes, stream))

    def softmax_log2_av(self, attention: LogAttention, stream: int = 0) -> None:
        """Queues the product on a CUDA stream (0: the default one)."""
        self.check(self.c.qvit_softmax_log2_av(ctypes.byref(attention), stream))
