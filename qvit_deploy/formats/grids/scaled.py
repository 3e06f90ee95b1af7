"""Grids on operands that are scaled first, per head or per row, so that one format serves them all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.formats.emitter import Emitter
from qvit_deploy.formats.format import Format
from qvit_deploy.formats.grids.activation import ActivationGrid
from qvit_deploy.formats.grids.grid import Grid, LogCodes, OrdinaryGrid, Prepared, QuantizerPair, Residue, Tensor
from qvit_deploy.formats.grids.probabilities import LevelGrid, LogGrid, UnsignedGrid

ProbabilityGrid = ActivationGrid | UnsignedGrid | LevelGrid | LogGrid


class ScaledGrid(OrdinaryGrid):
    """A grid on an operand that is scaled first: what the codes are is said by the common one, `grid`."""

    grid: Grid

    @property
    def format(self) -> Format:
        return self.grid.format

    @property
    def emitted_scale(self) -> float:
        return self.grid.emitted_scale

    @property
    def pair(self) -> QuantizerPair | None:
        return self.grid.pair

    @property
    def common(self) -> Grid:
        return self.grid

    @property
    def logarithm(self) -> LogCodes | None:
        return self.grid.logarithm


@dataclass(frozen=True)
class HeadGrid(ScaledGrid):
    """One scale per head: head h of [n, heads, rows, columns] is quantized as x * factors[h] on one common grid.

    Dividing by the factors is left to the product's output, so the integers meet in one per-tensor product, with a
    scalar scale and zero point 0 (a scale per head on the quantizer itself is what neither ONNX Runtime fuses nor
    TensorRT takes).

    Attributes:
        grid: the common grid, without a shift.
        factors: float > 0 per head.
    """

    grid: ActivationGrid
    factors: tuple[float, ...]

    @property
    def residue(self) -> Residue:
        return Residue(factors=self.factors)

    def apply(self, x: Tensor) -> Tensor:
        """Returns the dequantized value of x float32 [n, heads, rows, columns], divided by the factors again."""
        factors = torch.tensor(self.factors, device=x.device)[:, None, None]
        return self.grid.apply(x * factors) / factors

    def prepare(self, x: ir.Value, name: str, emitter: Emitter) -> Prepared:
        """Multiplies x by the factors, as the common grid takes it."""
        factors = emitter.constant(f"{name}.factors", np.array(self.factors, np.float32).reshape(-1, 1, 1))
        return self.grid.prepare(emitter.add("Mul", [x, factors], f"{name}.heads"), name, emitter)


@dataclass(frozen=True)
class RowGrid(ScaledGrid):
    """Probabilities are divided by the largest of their row (last axis) before `grid`, the product multiplied by it.

    p / max(p) = exp(s - max(s)): what is quantized is the softmax before its normalization, the way fused attention
    kernels hold it. Every row then uses the whole grid, however many keys share its attention.
    """

    grid: ProbabilityGrid

    @property
    def residue(self) -> Residue:
        return Residue(shift=self.grid.shift, by_row=True)

    def apply(self, p: Tensor) -> Tensor:
        """Returns the dequantized value of p > 0 [..., keys], multiplied by the largest of each row again."""
        largest = p.amax(-1, keepdim=True)
        return (self.grid.apply(p / largest) - self.grid.shift) * largest

    def prepare(self, x: ir.Value, name: str, emitter: Emitter) -> Prepared:
        """Divides x by the largest of every row, as the common grid takes it."""
        keys = emitter.shared("last_axis", np.array([-1], np.int64))
        largest = emitter.add("ReduceMax", [x, keys], f"{name}.largest")
        normalized = emitter.add("Div", [x, largest], f"{name}.normalized")
        return Prepared(normalized, self.grid.prepare(normalized, name, emitter).value, largest)
