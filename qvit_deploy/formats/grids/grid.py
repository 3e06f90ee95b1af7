"""What a grid is: a format put on one activation tensor, with a scale and what is done to the tensor around it.

A grid applies itself to a tensor (`apply`) and writes itself into a graph (`prepare`, and behind that its `pair`). Who
uses grids asks them and does not look at their classes; a new kind is one file here and one way of fitting it in
`quantize.ranges`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch

from qvit_deploy.formats.emitter import Emitter, write_pair
from qvit_deploy.formats.format import Format

Tensor = torch.Tensor


@dataclass(frozen=True)
class Residue:
    """What a quantizer does to its operand besides rounding, and the product's output has to undo.

    Attributes:
        shift: what was added to every element.
        factors: what each head was multiplied by; empty for nothing.
        by_row: whether every row was divided by its largest value.
    """

    shift: float = 0.0
    factors: tuple[float, ...] = ()
    by_row: bool = False


@dataclass(frozen=True)
class Prepared:
    """A tensor as a grid's quantizers take it.

    Attributes:
        source: what is rounded, after it was scaled per head or per row and before anything else.
        value: what the grid's pair of quantizers reads; of a grid without a pair the dequantized value itself.
        largest: the largest value of every row, where rows were divided by it.
    """

    source: ir.Value
    value: ir.Value
    largest: ir.Value | None = None


@dataclass(frozen=True)
class QuantizerPair:
    """QuantizeLinear and DequantizeLinear with one scale and zero point 0, whose codes a product can run on.

    Attributes:
        container: the type of the codes.
    """

    scale: float
    container: np.dtype[Any]

    def write(self, source: ir.Value, name: str, emitter: Emitter) -> tuple[ir.Value, ir.Value]:
        """Writes the pair behind `source` and returns (codes called `name`, value)."""
        scale = np.float32(self.scale)
        return write_pair(emitter, source, scale, scale, np.zeros((), self.container), name)


class OneScale(Protocol):
    """One scale, and one shift, for the whole tensor."""

    @property
    def format(self) -> Format: ...

    @property
    def scale(self) -> float: ...

    @property
    def shift(self) -> float: ...


class LogCodes(Protocol):
    """Logarithmic codes: code q stands for largest * 2^(-q / steps), the last one for 0.

    `scale` is the step of the uniform grid of 65,536 values that the codes are read from.
    """

    @property
    def format(self) -> Format: ...

    @property
    def steps(self) -> int: ...

    @property
    def largest(self) -> float: ...

    @property
    def scale(self) -> float: ...


class Grid(Protocol):
    """What every grid of an activation tensor can do."""

    @property
    def format(self) -> Format:
        """The format that an allocation chose; it tells grids of one tensor apart."""

    @property
    def shift(self) -> float:
        """What `apply` adds to the values besides rounding them; the product's output subtracts it again."""

    @property
    def emitted_scale(self) -> float:
        """The number that scales the operand in an emitted graph, where it is a constant called `*.scale` of a
        DequantizeLinear, or the last factor of a grid without a `pair`."""

    @property
    def is_plain(self) -> bool:
        """Whether the grid is one QuantizeLinear, behind a Clip at most."""

    @property
    def pair(self) -> QuantizerPair | None:
        """The quantizers behind `prepare`; None where the product reads a table of floating-point values instead."""

    @property
    def on_integers(self) -> bool:
        """Whether the product can run on the codes, which those of a `pair` are for."""

    @property
    def residue(self) -> Residue:
        """What the output of a product that reads the emitted operand has to undo."""

    @property
    def per_tensor(self) -> OneScale | None:
        """The one scale, and shift, of the whole tensor; None where there is more to it."""

    @property
    def common(self) -> Grid:
        """The grid that makes the codes, without what is done per head or per row around it."""

    @property
    def logarithm(self) -> LogCodes | None:
        """The logarithmic codes that the common grid makes; None where it makes others."""

    def apply(self, x: Tensor) -> Tensor:
        """Returns the dequantized value of x + shift, float32, what the consumer's product reads."""

    def with_half_scale(self) -> Grid:
        """Returns the grid whose scale float16 holds exactly; the same where it is not written in half precision."""

    def prepare(self, x: ir.Value, name: str, emitter: Emitter) -> Prepared:
        """Writes what stands in front of the quantizers, once for all readers of x; `name` is that of the codes."""


class OrdinaryGrid:
    """The answers that most grids give: not plain, on integers where they have a pair, only a shift to undo."""

    shift: float = 0.0

    @property
    def is_plain(self) -> bool:
        return False

    @property
    def on_integers(self: Grid) -> bool:
        return self.pair is not None

    @property
    def residue(self: Grid) -> Residue:
        return Residue(shift=self.shift)

    @property
    def per_tensor(self) -> OneScale | None:
        return None

    @property
    def common(self: Grid) -> Grid:
        return self

    @property
    def logarithm(self) -> LogCodes | None:
        return None

    def with_half_scale(self: Grid) -> Grid:
        return self
