"""The CUDA kernels, verified without a GPU: ctest, and NumPy against the emulated GPU."""

from __future__ import annotations

import math
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.grids.probabilities import LogGrid
from qvit_deploy.formats.grids.scaled import RowGrid
from qvit_deploy.formats.integer import Int
from qvit_deploy.targets.tensorrt.packed.packing import pack
from tests.support.devices.emulated_gpu import EmulatedGpu, build
from tests.support.devices.libqvit import Grid, KernelError, Linear, Type
from tests.support.graphs.attention_operator import one_attention, planned

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kernels_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module", params=[75, 87, 90], ids=lambda sm: f"sm{sm}")
def gpu(kernels_build: Path, request: pytest.FixtureRequest) -> EmulatedGpu:
    return EmulatedGpu(kernels_build, request.param)


def test_ctest(kernels_build: Path) -> None:
    command = ["ctest", "--test-dir", str(kernels_build), "--output-on-failure"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "100% tests passed" in done.stdout and "No tests were found" not in done.stdout


def codes_of(x: np.ndarray, scale: float, shift: float, bits: int) -> np.ndarray:
    """ONNX: Add, Clip, QuantizeLinear, in float32."""
    moved = x.astype(np.float32) + np.float32(shift)
    return np.clip(np.rint(moved / np.float32(scale)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)


@pytest.mark.parametrize("weight_bits", [4, 6, 8])
@pytest.mark.parametrize("a_bits", [4, 6, 8])
def test_linear_equals_numpy_bit_for_bit(gpu: EmulatedGpu, weight_bits: int, a_bits: int) -> None:
    rng = np.random.default_rng(weight_bits * 10 + a_bits)
    for tactic in range(len(gpu.library.tactics())):
        m, n, k = int(rng.integers(1, 90)), int(rng.integers(1, 90)), 8 * int(rng.integers(1, 40))
        dtype = np.float32 if tactic % 2 else np.float16
        x = rng.standard_normal((m, k)).astype(dtype)
        half = 2 ** (weight_bits - 1)
        weight = rng.integers(-half, half, (n, k), np.int8)
        weight_scale, bias = rng.uniform(0.01, 0.02, n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
        grid = (float(np.float32(rng.uniform(4, 8) / 2**a_bits)), float(np.float32(rng.normal() * 0.2)), a_bits)
        y = gpu.linear(x, pack(weight, weight_bits), weight_scale, bias, weight_bits, grid, tactic)
        sums = codes_of(x, *grid) @ weight.astype(np.int64).T
        expected = sums.astype(np.float32) * (np.float32(grid[0]) * weight_scale) + bias
        np.testing.assert_array_equal(y, expected.astype(dtype))
        assert gpu.findings() == (0, 0, "")


def test_gelu_is_exact_to_float_precision(gpu: EmulatedGpu) -> None:
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((40, 64)).astype(np.float32), rng.integers(-8, 8, (24, 64), np.int8)
    scale, bias, grid = np.full(24, 0.05, np.float32), np.zeros(24, np.float32), (0.25, 0.0, 6)
    plain = gpu.linear(x, pack(weight, 4), scale, bias, 4, grid, 3).astype(np.float64)
    activated = gpu.linear(x, pack(weight, 4), scale, bias, 4, grid, 3, gelu=True)
    expected = 0.5 * plain * (1 + np.vectorize(math.erf)(plain / math.sqrt(2)))
    np.testing.assert_allclose(activated, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(("bits", "steps", "by_row"), [(4, 1, False), (3, 1, True), (5, 2, True), (4, 2, False)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_log_attention_equals_its_body(
    gpu: EmulatedGpu, bits: int, steps: int, by_row: bool, dtype: type[np.floating]
) -> None:
    """The kernel and ONNX Runtime on the body: the same but where the last bit of an exponential moves a code."""
    rng = np.random.default_rng(bits)
    scores = (3 * rng.standard_normal((4, 37, 70))).astype(dtype)
    values = rng.standard_normal((4, 70, 21)).astype(dtype)
    grid, value_grid = LogGrid(Int(bits), steps, 1.0 if by_row else 0.25), ActivationGrid(Int(6), 0.0625, 0.0)
    got = gpu.attention(scores, values, bits, steps, grid.largest, by_row, (value_grid.scale, 0.0, 6))
    site = planned(RowGrid(grid) if by_row else grid, value_grid)
    kind = onnx.TensorProto.FLOAT16 if dtype == np.float16 else onnx.TensorProto.FLOAT
    runner = ort.InferenceSession(one_attention(site, kind).SerializeToString(), providers=["CPUExecutionProvider"])
    (body,) = runner.run(None, {"scores": scores[:, None], "values": values[:, None]})
    close = np.isclose(got.astype(np.float64), body[:, 0], rtol=2**-10 if dtype == np.float16 else 1e-5, atol=1e-5)
    assert close.mean() > 0.98 and np.abs(got - body[:, 0]).max() < 0.1
    assert gpu.findings() == (0, 0, "")


def test_statuses_become_exceptions(gpu: EmulatedGpu) -> None:
    with pytest.raises(KernelError, match=r"no tactic of this id \(status 5\)"):
        gpu.library.workspace_bytes(Linear(m=1, n=1, k=1), 99)
    grid = Grid(1.0, 0.0, 8)
    linear = Linear(16, 16, 16, 0, 8, 1, 1, 4, 4, 4, Type.FLOAT32, Type.FLOAT32, 8, grid, grid, 0)
    with pytest.raises(KernelError, match="not aligned"):
        gpu.library.linear(linear, 0)
    linear.weight_bits = 3
    with pytest.raises(KernelError, match="not 4, 6 or 8 bits"):
        gpu.library.linear(linear, 0)


def test_a_gpu_without_code_raises_and_writes_nothing(gpu: EmulatedGpu) -> None:
    x, weight = np.ones((3, 64), np.float32), np.ones((8, 64), np.int8)
    run = partial(gpu.linear, x, pack(weight, 8), np.ones(8), np.zeros(8), 8, (1.0, 0.0, 8), 0)
    gpu.library.c.emulated_fail(209)
    try:
        with pytest.raises(KernelError, match=r"holds no kernel for this GPU.* \(status 9\)"):
            run()
        gpu.library.c.emulated_fail(999)
        with pytest.raises(KernelError, match=r"CUDA reported an error.* \(status 10\)"):
            run()
    finally:
        gpu.library.c.emulated_fail(0)
    np.testing.assert_array_equal(run(), np.full((3, 8), 64))
