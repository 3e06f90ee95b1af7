"""Builds the kernels' host tests once a session, and runs layers on the emulated GPU they contain."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.devices.libqvit import Grid, Library, Linear, LogAttention, Type
from tests.support.places import KERNELS


def build(folder: Path) -> Path:
    """Configures and builds with the host compiler alone; skips where there is no cmake or compiler."""
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the kernels are not verified")
    command = ["cmake", "-S", str(KERNELS), "-B", str(folder), "-DQVIT_CUDA=OFF"]
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    subprocess.run([*command, *generator], check=True, capture_output=True, text=True)
    done = subprocess.run(["cmake", "--build", str(folder), "--parallel", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 16 bytes."""
    raw = np.zeros(array.nbytes + 16, np.uint8)
    start = -raw.ctypes.data % 16
    copy = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class EmulatedGpu:
    """The kernels on one emulated architecture, with NumPy arrays as its memory."""

    def __init__(self, folder: Path, sm: int) -> None:
        self.library = Library(folder / "tests" / f"libqvit_emulated_{sm}.so")

    def findings(self) -> tuple[int, int, str]:
        """(violations, bank conflicts, first violation) since the last call."""
        counts = [ctypes.c_int64() for _ in range(3)]
        first = ctypes.create_string_buffer(256)
        self.library.c.emulated_findings(*map(ctypes.byref, counts), first, ctypes.c_size_t(256))
        return counts[0].value, counts[1].value, first.value.decode()

    def linear(
        self,
        x: np.ndarray,
        packed: np.ndarray,
        weight_scale: np.ndarray,
        bias: np.ndarray,
        weight_bits: int,
        grid: tuple[float, float, int],
        tactic: int,
        gelu: bool = False,
    ) -> np.ndarray:
        """y [M, N] of the dtype of x [M, K], float16 or float32, K a multiple of 8."""
        kind = Type.FLOAT16 if x.dtype == np.float16 else Type.FLOAT32
        (m, k), n = x.shape, len(weight_scale)
        y = aligned(np.full((m, n), np.nan, x.dtype))
        memory = [aligned(a) for a in (x, packed, weight_scale.astype(np.float32), bias.astype(np.float32))]
        addresses = [a.ctypes.data for a in (*memory, y)]
        linear = Linear(*addresses, m, n, k, k, n, kind, kind, weight_bits, Grid(*grid), Grid(1, 0, 8), int(gelu))
        workspace = aligned(np.full(self.library.workspace_bytes(linear, tactic), 0xEB, np.uint8))
        self.library.linear(linear, tactic, workspace.ctypes.data, workspace.nbytes)
        return y

    def attention(
        self, scores: np.ndarray, values: np.ndarray, bits: int, steps: int, largest: float, by_row: bool,
        grid: tuple[float, float, int],
    ) -> np.ndarray:  # fmt: skip
        """out [B, T, D] of scores [B, T, S] and values [B, S, D], all float16 or all float32."""
        kind = Type.FLOAT16 if scores.dtype == np.float16 else Type.FLOAT32
        (batch, queries, keys), width = scores.shape, values.shape[2]
        memory = [aligned(a) for a in (scores, values, np.full((batch, queries, width), np.nan, scores.dtype))]
        sizes = (batch, queries, keys, width, keys, width, width, kind, steps, bits)
        addresses = [a.ctypes.data for a in memory]
        self.library.softmax_log2_av(LogAttention(*addresses, *sizes, largest, int(by_row), Grid(*grid)))
        return memory[2]
