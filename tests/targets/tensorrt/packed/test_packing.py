"""Packing and unpacking are inverse, and the same bytes as the kernels' own header makes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qvit_deploy.errors import InputError
from qvit_deploy.targets.tensorrt.packed.packing import PACKED_BITS, pack, packed_shape, unpack
from tests.support.places import KERNELS

INCLUDE = KERNELS / "include"

SOURCE = """
#include "qvit/packing.h"
extern "C" bool pack(const int8_t* codes, int64_t n, int64_t k, int bits, uint8_t* out) {
  return qvit::pack(codes, n, k, bits, out);
}
extern "C" void unpack(const uint8_t* bytes, int64_t n, int64_t k, int bits, int8_t* codes) {
  qvit::unpack(bytes, n, k, bits, codes);
}
extern "C" int64_t packed_bytes(int64_t n, int64_t k, int bits) { return qvit::packed_bytes(n, k, bits); }
"""

shapes = st.tuples(st.integers(1, 40), st.integers(1, 300))


def random_codes(shape: tuple[int, int], bits: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, np.int8)


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler: the agreement of packed.py with packing.h is not checked")
    folder = tmp_path_factory.mktemp("packing")
    (folder / "packing.cpp").write_text(SOURCE)
    library = folder / "packing.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", f"-I{INCLUDE}"]
    subprocess.run([compiler, *flags, str(folder / "packing.cpp"), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    loaded.pack.argtypes = loaded.unpack.argtypes = [pointer, size, size, ctypes.c_int, pointer]
    loaded.pack.restype, loaded.unpack.restype = ctypes.c_bool, None
    loaded.packed_bytes.argtypes, loaded.packed_bytes.restype = [size, size, ctypes.c_int], size
    return loaded


@given(shape=shapes, bits=st.sampled_from(PACKED_BITS), seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_unpack_undoes_pack(shape: tuple[int, int], bits: int, seed: int) -> None:
    codes = random_codes(shape, bits, seed)
    np.testing.assert_array_equal(unpack(pack(codes, bits), bits, shape), codes)


@given(shape=shapes, bits=st.sampled_from(PACKED_BITS), seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_the_header_packs_the_same_bytes(header: ctypes.CDLL, shape: tuple[int, int], bits: int, seed: int) -> None:
    codes = random_codes(shape, bits, seed)
    ours = pack(codes, bits)
    assert ours.size == header.packed_bytes(*shape, bits)
    theirs, back = np.full(ours.size, 0xEB, np.uint8), np.full(shape, 99, np.int8)
    assert header.pack(codes.ctypes.data, *shape, bits, theirs.ctypes.data)
    np.testing.assert_array_equal(ours, theirs)
    header.unpack(ours.ctypes.data, *shape, bits, back.ctypes.data)
    np.testing.assert_array_equal(back, codes)


def test_the_documented_bytes() -> None:
    codes = np.zeros((2, 64), np.int8)
    codes[1, 0], codes[1, 16], codes[1, 63] = 0b011101, -32, -1
    packed = pack(codes, 6).reshape(3, 8, 16)
    assert packed[0, 1, 0] == 0x87 and packed[1, 1, 15] == 0xF0
    assert packed[2, 1, 0] == 0x01 and packed[2, 1, 15] == 0xC0
    assert packed[:, 0].sum() == 0


@pytest.mark.parametrize("bits", PACKED_BITS)
def test_a_row_costs_its_bits(bits: int) -> None:
    assert pack(np.zeros((16, 384), np.int8), bits).nbytes == 16 * 384 * bits // 8


@pytest.mark.parametrize("bits", [4, 6])
def test_codes_outside_the_grid_are_named(bits: int) -> None:
    codes = np.zeros((3, 70), np.int8)
    codes[2, 65] = 2 ** (bits - 1)
    with pytest.raises(InputError, match=r"at \[2, 65\] is outside"):
        pack(codes, bits)
    codes[2, 65] = -(2 ** (bits - 1)) - 1
    with pytest.raises(InputError, match="outside"):
        pack(codes, bits)


def test_a_wide_dtype_does_not_wrap() -> None:
    with pytest.raises(InputError, match="code 300"):
        pack(np.array([[300]]), 8)


@pytest.mark.parametrize("codes", [np.zeros(4, np.int8), np.zeros((2, 2), np.float32)])
def test_only_integer_matrices(codes: np.ndarray) -> None:
    with pytest.raises(InputError, match="integer matrix"):
        pack(codes, 4)


def test_bad_widths_shapes_and_sizes() -> None:
    with pytest.raises(InputError, match="5 bits"):
        packed_shape((1, 1), 5)
    with pytest.raises(InputError, match="positive"):
        packed_shape((0, 4), 4)
    with pytest.raises(InputError, match="packed bytes, got 3"):
        unpack(np.zeros(3, np.uint8), 4, (1, 1))
