"""Integers of 2 to 8 bits: zero point 0, in int8 containers whatever their width.

A b-bit code of `Int` lies in [-2^(b-1), 2^(b-1)-1], of `Unsigned` in [0, 2^b-1]. Scales are float32, finite and
positive; rounding is half to even.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qvit_deploy.formats.format import Format

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Int(Format):
    """Signed integers of `bits` bits, 2 to 8. Raises ValueError for other widths."""

    bits: int
    integer = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"{self.bits} bits: a grid has 2 to 8")

    @property
    def short(self) -> str:
        return str(self.bits)

    @property
    def range(self) -> tuple[int, int]:
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    @property
    def container(self) -> np.dtype:
        return np.dtype(np.int8)

    @property
    def fills_container(self) -> bool:
        return self.bits == 8

    def quantize(self, x: Tensor, scale: Tensor) -> Tensor:
        """Divides as QuantizeLinear does (ONNX specification): x / scale in float32, rounded half to even."""
        return (x / scale).round().clamp_(*self.range)

    def compact(self, codes: Tensor) -> Tensor:
        """Returns the codes as int8."""
        return codes.char()


UNSIGNED_BITS = 7
"""The widest codes without a sign that an int8 container holds."""


@dataclass(frozen=True)
class Unsigned(Int):
    """Integers of 2 to 7 bits without a sign, for values that are never negative. Raises ValueError for other widths.

    0 stands for 0, so that a convolution may pad with it. An allocation says `Int`, and the grid of such a tensor has
    this format in its place.
    """

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= UNSIGNED_BITS:
            raise ValueError(f"{self.bits} bits: a grid without a sign has 2 to {UNSIGNED_BITS}")

    @property
    def range(self) -> tuple[int, int]:
        return 0, 2**self.bits - 1
