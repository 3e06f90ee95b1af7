"""What a grid needs of whoever writes a graph, and the two ways of writing that grids share."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx_ir as ir


class Emitter(Protocol):
    """Adds nodes and constants to a graph, in front of the reader that a grid is written for."""

    def add(
        self,
        op_type: str,
        inputs: list[ir.Value],
        output: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        """Adds a node and returns its result, called `output`."""

    def constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        """Adds a constant; its name is `name` or one made from it."""

    def shared(self, name: str, array: np.ndarray) -> ir.Value:
        """Returns the constant of that name, added at its first use."""


def write_pair(
    emitter: Emitter, x: ir.Value, scale: np.float32, unit: np.float32, zero: np.ndarray | np.generic, name: str
) -> tuple[ir.Value, ir.Value]:
    """Writes QuantizeLinear and DequantizeLinear and returns (codes of x on steps of `scale`, called `name`; codes *
    unit). `zero` is the zero point, in their container."""
    parameters = [emitter.constant(f"{name}.scale", scale), emitter.constant(f"{name}.zero", zero)]
    codes = emitter.add("QuantizeLinear", [x, *parameters], name, dtype=ir.DataType.from_numpy(zero.dtype))
    if unit != scale:
        parameters[0] = emitter.constant(f"{name}.unit", unit)
    return codes, emitter.add("DequantizeLinear", [codes, *parameters], f"{name}.value")


def write_look_up(
    emitter: Emitter,
    x: ir.Value,
    scale: np.float32,
    unit: np.float32,
    zero: np.generic,
    table: ir.Value,
    name: str,
) -> ir.Value:
    """Writes u * unit + table[u] with u the uniform codes of x on steps of `scale`, and returns it.

    The table holds the difference of the value to u * unit, so that the sum is the value and, unlike a look-up of
    the values themselves, has a gradient: the one that passes straight through the quantizer.
    """
    codes, value = write_pair(emitter, x, scale, unit, zero, name)
    index = emitter.add("Cast", [codes], f"{name}.index", ir.DataType.INT32, {"to": ir.DataType.INT32.value})
    correction = emitter.add("Gather", [table, index], f"{name}.moved")
    return emitter.add("Add", [value, correction], f"{name}.rounded")


def write_clip(emitter: Emitter, x: ir.Value, scale: np.float32, codes: tuple[float, float], name: str) -> ir.Value:
    """Writes a Clip of x to the values that the lowest and the highest of `codes` stand for."""
    low, high = (
        emitter.constant(f"{name}.{end}", np.float32(c) * scale) for end, c in zip(("low", "high"), codes, strict=True)
    )
    return emitter.add("Clip", [x, low, high], f"{name}.clipped")
