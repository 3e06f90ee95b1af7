"""Grids for attention probabilities: values in [0, 1], most of them near 0.

A signed symmetric grid never uses its negative half on them and a uniform one spends nearly all of its codes on the few
large values. Here every code stands for a value in [0, largest]:

* `UnsignedGrid`: uniform, code c in 0..2^b-1 stands for c * scale. Up to 7 bits the codes fit an int8 container with
  zero point 0. (At 8 bits `ActivationGrid` with a shift of -128 steps has the same 256 values.)
* `LevelGrid`: code c stands for levels[c] * scale, the levels chosen among the integers 0..127. The product runs on the
  levels, so on int8, whatever their spacing.
* `LogGrid`: code q stands for largest * 2^(-q / steps): `log2` with 1 step an octave, `log-sqrt2` with 2 (RepQ-ViT, Li
  et al. 2023, section 3.3). The last code is exactly 0. These products run in floating point, but for our own kernel's.

**Exact codes.** A logarithm may differ in its last bit between two runtimes and then a code does. All codes here come
from one uniform quantizer, u = clamp(round_half_even(p / s), 0, top), and a table over u: division, rounding and table
look-ups agree bit for bit everywhere. For `LogGrid` the table has 65,536 entries (s = largest / 65535) and its bounds
are integers, so that a kernel can compare u with them instead (or take the exponent of u and compare once).

**Packed codes.** Two 4-bit codes share a byte, the even key in the low half; codes are unsigned and carry no offset.
A kernel decodes `UnsignedGrid` as c; `LevelGrid` as levels[c], a 16-byte table in registers (one byte permute) that
yields int8 operands; `LogGrid` as largest * 2^-q for 1 step an octave, largest * 2^-(q >> 1) * (q & 1 ? 2^-1/2 : 1) for
2, and 0 for the last code: an exponent subtraction, with `largest` applied to the accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.formats.emitter import Emitter, write_clip, write_look_up
from qvit_deploy.formats.format import Format
from qvit_deploy.formats.grids.grid import OrdinaryGrid, Prepared, QuantizerPair, Tensor
from qvit_deploy.formats.grids.half import half_scale

FINE_TOP = 65535
"""Highest code of the uniform 16-bit grid under `LogGrid`."""

LEVEL_TOP = 127
"""Highest level: what an int8 container holds."""

LOG_BITS = {1: 4, 2: 5}
"""Steps an octave -> widest useful code. One bit more and the smallest values fall below the 16-bit grid, which is
below 2^-15 of the largest: a row of 197 of them adds up to 0.6 % of one."""


@dataclass(frozen=True)
class UnsignedGrid(OrdinaryGrid):
    """Uniform, 2 to 7 bits, codes 0..2^bits - 1, value code * scale."""

    format: Format
    scale: float

    @property
    def highest(self) -> int:
        """Returns the largest code."""
        return 2**self.format.bits - 1

    @property
    def emitted_scale(self) -> float:
        return self.scale

    @property
    def is_plain(self) -> bool:
        return True

    @property
    def pair(self) -> QuantizerPair:
        return QuantizerPair(self.scale, np.dtype(np.int8))

    def codes(self, p: Tensor) -> Tensor:
        """Returns the codes of p, float32 integers, in its shape."""
        return _uniform_codes(p, self.scale, self.highest)

    def apply(self, p: Tensor) -> Tensor:
        """Returns the dequantized value of p >= 0, float32."""
        return self.codes(p) * torch.tensor(self.scale, device=p.device)

    def with_half_scale(self) -> UnsignedGrid:
        return replace(self, scale=half_scale(self.scale))

    def prepare(self, x: ir.Value, name: str, emitter: Emitter) -> Prepared:
        """Clips x to the codes, which fill half of the container."""
        return Prepared(x, write_clip(emitter, x, np.float32(self.scale), (0, self.highest), name))


@dataclass(frozen=True)
class LevelGrid(OrdinaryGrid):
    """2^bits integer levels, ascending from 0 to at most `LEVEL_TOP`; value levels[code] * scale."""

    format: Format
    scale: float
    levels: tuple[int, ...]

    @property
    def emitted_scale(self) -> float:
        return self.scale

    @property
    def pair(self) -> QuantizerPair:
        """The codes it writes are the levels themselves."""
        return QuantizerPair(self.scale, np.dtype(np.int8))

    def table(self) -> Tensor:
        """Returns the level nearest to every integer 0..LEVEL_TOP (the lower one of two as near), float32 [LEVEL_TOP +
        1]."""
        levels = torch.tensor(self.levels)
        return levels[_nearest(self.levels)].float()

    def codes(self, p: Tensor) -> Tensor:
        """Returns the index of the level, int64 0..2^bits - 1, in the shape of p."""
        return _nearest(self.levels).to(p.device)[_uniform_codes(p, self.scale, LEVEL_TOP).long()]

    def apply(self, p: Tensor) -> Tensor:
        """Returns the dequantized value of p >= 0, float32."""
        levels = torch.tensor(self.levels, dtype=torch.float32, device=p.device)
        return levels[self.codes(p)] * torch.tensor(self.scale, device=p.device)

    def prepare(self, x: ir.Value, name: str, emitter: Emitter) -> Prepared:
        """Rounds x to the values of the levels."""
        scale = np.float32(self.scale)
        corrections = self.table().numpy() - np.arange(LEVEL_TOP + 1, dtype=np.float32)
        table = emitter.constant(f"{name}.levels", corrections * scale)
        return Prepared(x, write_look_up(emitter, x, scale, scale, np.int8(0), table, f"{name}.fine"))


@dataclass(frozen=True)
class LogGrid(OrdinaryGrid):
    """Powers of 2^(-1/steps) below `largest`, and 0 as the last code; see `log_codes`."""

    format: Format
    steps: int
    largest: float

    @property
    def emitted_scale(self) -> float:
        return self.largest

    @property
    def pair(self) -> None:
        return None

    @property
    def logarithm(self) -> LogGrid:
        return self

    @property
    def scale(self) -> float:
        """Step of the uniform 16-bit grid the codes are read from."""
        return float(torch.tensor(self.largest) / FINE_TOP)

    def apply(self, p: Tensor) -> Tensor:
        """Returns the dequantized value of p >= 0, float32."""
        bits = self.format.bits
        return log_values(log_codes(p, self.largest, bits, self.steps), self.largest, bits, self.steps)

    def prepare(self, x: ir.Value, name: str, emitter: Emitter) -> Prepared:
        """Writes the dequantized value of x, in units of the largest until the last step: one table, a quarter of a
        megabyte, serves all sites."""
        bits, unit = self.format.bits, np.float32(1) / np.float32(FINE_TOP)
        powers = _log_powers(bits, self.steps)[_log_table(bits, self.steps)].numpy()
        corrections = powers - np.arange(FINE_TOP + 1, dtype=np.float32) * unit
        table = emitter.shared(f"log2.{self.steps}.q{bits}", corrections)
        rounded = write_look_up(emitter, x, np.float32(self.scale), unit, np.uint16(0), table, name)
        largest = emitter.constant(f"{name}.range", np.float32(self.largest))
        return Prepared(x, emitter.add("Mul", [rounded, largest], f"{name}.power"))


def log_codes(p: Tensor, largest: float, bits: int, steps: int) -> Tensor:
    """Returns the codes q of p >= 0: round(-steps * log2(p / largest)), int64 in 0..2^bits - 1.

    p is first rounded to the grid of 65,536 values on [0, largest], which makes the codes exact everywhere. The last
    code stands for 0 and is that of everything nearer to 0 than to the smallest power. Values above `largest` get 0.

    Raises:
        ValueError: `bits` is more than `LOG_BITS` of these steps.
    """
    fine = _uniform_codes(p, float(torch.tensor(largest) / FINE_TOP), FINE_TOP)
    return _log_table(bits, steps).to(p.device)[fine.long()]


def log_values(codes: Tensor, largest: float, bits: int, steps: int) -> Tensor:
    """Returns largest * 2^(-q / steps), and 0 for the last code: float32."""
    return _log_powers(bits, steps).to(codes.device)[codes] * torch.tensor(largest, device=codes.device)


def log_table(bits: int, steps: int) -> Tensor:
    """Returns the code of every value of the uniform 16-bit grid, int64 [65536]. Raises ValueError as `log_codes`."""
    return _log_table(bits, steps).clone()


def log_powers(bits: int, steps: int) -> Tensor:
    """Returns the value of every code with a largest of 1, float32 [2^bits]."""
    return _log_powers(bits, steps).clone()


@lru_cache
def _log_table(bits: int, steps: int) -> Tensor:
    if steps not in LOG_BITS or not 2 <= bits <= LOG_BITS[steps]:
        raise ValueError(f"{bits}-bit log codes with {steps} steps an octave: steps and widths are {LOG_BITS}")
    zero = 2**bits - 1
    fine = torch.arange(FINE_TOP + 1, dtype=torch.float64) / FINE_TOP
    codes = torch.round(-steps * torch.log2(fine.clamp_min(1 / FINE_TOP))).clamp_max(zero - 1).long()
    return torch.where(fine < 0.5 * 2 ** (-(zero - 1) / steps), zero, codes)


@lru_cache
def _log_powers(bits: int, steps: int) -> Tensor:
    powers = torch.exp2(-torch.arange(2**bits, dtype=torch.float64) / steps).float()
    powers[-1] = 0
    return powers


def _uniform_codes(p: Tensor, scale: float, top: int) -> Tensor:
    return torch.round(p / torch.tensor(scale, device=p.device)).clamp_(0, top)


@lru_cache
def _nearest(levels: tuple[int, ...]) -> Tensor:
    """Returns the index of the level nearest to every integer 0..LEVEL_TOP, int64; ties go to the lower level."""
    ascending = torch.tensor(levels)
    middles = (ascending[1:] + ascending[:-1]) // 2
    return torch.bucketize(torch.arange(LEVEL_TOP + 1), middles)
