"""Packs weight codes of 4, 6 or 8 bits into the byte layout that the CUDA kernels load, and unpacks them.

The layout is defined in `kernels/include/qvit/packing.h`: panels of 8 output channels, blocks of 64 codes, chunks of 16
bytes, each chunk of a panel 128 contiguous bytes. K is padded with zero codes to a multiple of 64 and N with zero rows
to a multiple of 8, so that a row costs K_padded * bits / 8 bytes.
"""

from __future__ import annotations

import numpy as np

from qvit_deploy.errors import InputError

PACKED_BITS = (4, 6, 8)
"""Widths the kernels take."""

BLOCK = 64
"""Codes of one channel that are packed together: what K is padded to."""

PANEL = 8
"""Output channels that are interleaved: what N is padded to."""

CHUNK = 16
"""Bytes of one vector load."""


def packed_shape(shape: tuple[int, int], bits: int) -> tuple[int, int, int, int, int]:
    """Returns the shape (panels, blocks, chunks, 8, 16) of the packed bytes of codes of `shape` [N, K].

    Raises:
        InputError: a width other than 4, 6, 8, or a size that is not positive.
    """
    if bits not in PACKED_BITS:
        raise InputError(f"weights of {bits} bits cannot be packed: the kernels take {PACKED_BITS}")
    n, k = shape
    if n < 1 or k < 1:
        raise InputError(f"weights of shape {shape} cannot be packed: both sizes must be positive")
    return -(-n // PANEL), -(-k // BLOCK), bits * BLOCK // 8 // CHUNK, PANEL, CHUNK


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs integer codes [N, K], output channels first, into bytes, uint8 [panels * blocks * chunks * 128].

    Raises:
        InputError: codes that are not an integer matrix, or outside [-2^(bits-1), 2^(bits-1)-1]; or as `packed_shape`.
    """
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise InputError(f"codes to pack must be an integer matrix [N, K], got {codes.dtype} {list(codes.shape)}")
    panels, blocks, _, _, _ = packed_shape((codes.shape[0], codes.shape[1]), bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    outside = (codes < low) | (codes > high)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(f"code {codes[row, column]} at [{row}, {column}] is outside the {bits}-bit grid {low}..{high}")
    padded = np.zeros((panels * PANEL, blocks * BLOCK), np.int8)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    fields = padded.view(np.uint8).reshape(panels, PANEL, blocks, BLOCK // CHUNK, CHUNK)
    if bits == 8:
        chunks = fields
    elif bits == 4:
        chunks = _halves(fields & 15)
    else:
        pairs = [(fields[..., j, :] & 3) << (2 * j) for j in range(4)]
        last = pairs[0] | pairs[1] | pairs[2] | pairs[3]
        chunks = np.concatenate([_halves(fields >> 2 & 15), last[..., None, :]], axis=3)
    return np.ascontiguousarray(chunks.transpose(0, 2, 3, 1, 4)).reshape(-1)


def unpack(packed: np.ndarray, bits: int, shape: tuple[int, int]) -> np.ndarray:
    """Returns the codes, int8 [N, K], that `pack` packed into `packed` (uint8, any shape).

    Raises:
        InputError: not the bytes of codes of that shape and width; or as `packed_shape`.
    """
    layout = packed_shape(shape, bits)
    if packed.dtype != np.uint8 or packed.size != np.prod(layout):
        raise InputError(
            f"codes of shape {list(shape)} at {bits} bits are {np.prod(layout)} packed bytes, got {packed.size} of "
            f"{packed.dtype}"
        )
    chunks = packed.reshape(layout).transpose(0, 3, 1, 2, 4)
    if bits == 8:
        fields = chunks
    elif bits == 4:
        fields = _unpaired(chunks)
    else:
        low = np.stack([chunks[..., 2, :] >> (2 * j) & 3 for j in range(4)], axis=3)
        fields = _unpaired(chunks[..., :2, :]) << 2 | low
    sign = np.uint8(1 << (bits - 1))
    codes = ((fields ^ sign).astype(np.int16) - int(sign)).astype(np.int8)
    rows = codes.reshape(layout[0] * PANEL, layout[1] * BLOCK)
    return np.ascontiguousarray(rows[: shape[0], : shape[1]])


def _halves(fields: np.ndarray) -> np.ndarray:
    """Packs 4-bit codes [.., 4, 16] into bytes [.., 2, 16]: codes 16 apart share a byte, the first in the low half."""
    return fields[..., 0::2, :] | fields[..., 1::2, :] << 4


def _unpaired(chunks: np.ndarray) -> np.ndarray:
    """Inverts `_halves`."""
    return np.stack([chunks & 15, chunks >> 4], axis=4).reshape(*chunks.shape[:3], 4, CHUNK)
