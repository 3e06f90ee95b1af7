"""What a number format is: the values its codes stand for, where they are kept, and what they cost.

A new format is one file here with one subclass of `Format`. Ranges, rounding, the cost model and emission ask the
format and compare no widths. Nothing here imports torch, so that those who only count bits do without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_SCALE = 1e-12
"""A constant-zero tensor still needs a positive scale."""


@dataclass(frozen=True)
class Block:
    """A group of elements with a scale of its own, stored next to them, as in MX and NVFP4.

    Attributes:
        size: how many neighbours along the axis that a product sums over.
        scale_bits: bits of the scale.
    """

    size: int
    scale_bits: int


class Format(ABC):
    """A number format; formats are immutable, hashable, equal where they mean the same, and ordered by cost.

    A *code* is a point of the format before the scale: an integer of `Int`, a value of an 8-bit float. Codes are
    float32 tensors while they are computed with, and arrays of `container` when they are kept.

    Attributes:
        bits: width of a code.
        integer: whether codes are consecutive integers, so that a product may run on them.
        block: what shares a scale below the tensor or the channel; None where nothing does.
    """

    bits: int
    integer: bool = False
    block: Block | None = None

    @property
    @abstractmethod
    def short(self) -> str:
        """What tells the format from others in names: `4` of `Int(4)`, in `w4a4` and `x.q4`."""

    @property
    @abstractmethod
    def range(self) -> tuple[float, float]:
        """(lowest, highest) code."""

    @property
    @abstractmethod
    def container(self) -> np.dtype:
        """What a code is kept in, in memory and in an ONNX file (packed files: `targets.tensorrt.packed`)."""

    @abstractmethod
    def quantize(self, x: Tensor, scale: Tensor) -> Tensor:
        """Returns the codes of x, float32 of its shape; `scale` broadcasts against x. Rounds half to even, as
        QuantizeLinear."""

    @property
    def onnx_type(self) -> ir.DataType:
        """ONNX type of the container: what QuantizeLinear makes."""
        return ir.DataType.from_numpy(self.container)

    @property
    def fills_container(self) -> bool:
        """Whether QuantizeLinear itself saturates at the ends of `range`, so that no Clip is needed in front of it."""
        return False

    def choose_scale(self, absmax: Tensor) -> Tensor:
        """Returns the scale whose highest code is `absmax` (any shape, elementwise): float32, positive."""
        return (absmax.float() / self.range[1]).clamp_min(SMALLEST_SCALE)

    def dequantize(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Returns codes x scale, float32."""
        return codes * scale

    def fake_quantize(self, x: Tensor, scale: Tensor) -> Tensor:
        """Rounds x to the nearest point of the format at this scale."""
        return self.dequantize(self.quantize(x, scale), scale)

    def compact(self, codes: Tensor) -> Tensor:
        """Returns the same codes in a torch type that takes less memory, where there is one."""
        return codes

    def stored_bits(self, elements: int) -> int:
        """Returns what `elements` codes cost with the scales of their blocks, in bits when packed at their width."""
        scales = 0 if self.block is None else -(-elements // self.block.size) * self.block.scale_bits
        return elements * self.bits + scales

    def __lt__(self, other: Format) -> bool:
        return (self.stored_bits(2**20), self.short) < (other.stored_bits(2**20), other.short)
