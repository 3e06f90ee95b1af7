"""Integer grids: pure functions between float tensors and b-bit codes.

All grids are symmetric with zero point 0. A b-bit code lies in [-2^(b-1), 2^(b-1)-1] whatever container holds it.
Rounding is half to even, scales are float32, finite and positive.
"""

from __future__ import annotations

from typing import Protocol

import torch

Tensor = torch.Tensor

SMALLEST_SCALE = 1e-12
"""A constant-zero tensor still needs a positive scale."""


class Grid(Protocol):
    """What every grid of an activation tensor can do, uniform or not."""

    @property
    def bits(self) -> int:
        """Width of a code."""

    @property
    def shift(self) -> float:
        """What `apply` adds to the values beside rounding them; the product's output takes it back."""

    def apply(self, x: Tensor) -> Tensor:
        """The dequantized value of x + shift, float32, what the consumer's product reads."""


def code_range(bits: int) -> tuple[int, int]:
    """(lowest, highest) code of a signed b-bit grid, b in 2..8."""
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits: a grid has 2 to 8")
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def absmax_scale(absmax: Tensor, bits: int) -> Tensor:
    """The scale whose highest code is `absmax` (any shape, elementwise), float32."""
    return (absmax.float() / code_range(bits)[1]).clamp_min(SMALLEST_SCALE)


def quantize(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Codes of `x` as float32 integers; `scale` broadcasts against x.

    Divides as QuantizeLinear does (ONNX specification): x / scale in float32, rounded half to even.
    """
    low, high = code_range(bits)
    return torch.round(x / scale).clamp_(low, high)


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """codes x scale, float32."""
    return codes * scale


def fake_quantize(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    """dequantize(quantize(x)): x moved to the nearest point of the grid."""
    return dequantize(quantize(x, scale, bits), scale)
