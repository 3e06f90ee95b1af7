"""Quantizers of activations: one way of writing for each kind of grid."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.editor import Editor
from qvit_deploy.quantize.grid import Grid, code_range
from qvit_deploy.quantize.ranges.attention import HeadGrid, RowGrid, inner_grid
from qvit_deploy.quantize.ranges.softmax import (
    FINE_TOP,
    LEVEL_TOP,
    LevelGrid,
    LogGrid,
    UnsignedGrid,
    log_powers,
    log_table,
)


def codes_name(tensor: str, bits: int) -> str:
    """Name of the integer codes of activation `tensor` quantized at `bits` in an emitted graph: the first reader's; the
    others' names go on with `.2`, `.3`, ...

    They are int8 (of a `LevelGrid`: the levels themselves), of a `LogGrid` the uint16 codes that its own are read from.
    """
    return f"{tensor}.q{bits}"


class Quantizers:
    """The activation quantizers of one graph.

    Attributes:
        largest: codes name -> the largest value of every row, of tensors on a `RowGrid`.
    """

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.largest: dict[str, ir.Value] = {}
        self._sources: dict[str, ir.Value] = {}
        self._readers: Counter[str] = Counter()
        self._shared: dict[str, ir.Value] = {}

    def value(self, x: ir.Value, grid: Grid, reader: ir.Node) -> ir.Value:
        """The dequantized value of x on its grid, for one reader; before what the product's output takes back.

        All readers share one pair, except in ONNX Runtime, where they share the shifted and clipped tensor but not the
        pair: on x86 it makes an int8 pair uint8 before it fuses, and passes over pairs with several readers (separate
        q, k and v would run in float).
        """
        base, inner = codes_name(x.name or "", grid.bits), inner_grid(grid)
        if base not in self._sources:
            self._sources[base] = self._source(x, grid, reader, base)
        if isinstance(inner, LogGrid):
            return self._sources[base]
        if not self.editor.for_onnxruntime and base in self._shared:
            return self._shared[base]
        self._readers[base] += 1
        pair = base if self._readers[base] == 1 else f"{base}.{self._readers[base]}"
        # A scale of its own too: pairs with one and the same scale would be merged.
        scale = np.float32(inner.scale)
        codes, value = self._pair(self._sources[base], scale, scale, np.int8(0), pair, reader)
        for made in (codes, value):
            made.shape = x.shape if not self.editor.lifts(x) else None
        self._shared[base] = value
        return value

    def _source(self, x: ir.Value, grid: Grid, reader: ir.Node, base: str) -> ir.Value:
        """x as the int8 pair takes it: lifted to rank 3, scaled, shifted, clipped or rounded to levels where needed;
        the dequantized value itself on a `LogGrid`."""
        add, constant = self.editor.add, self.editor.constant
        source, inner = x, inner_grid(grid)
        if self.editor.lifts(x):
            source = add(reader, "Unsqueeze", [source, self.editor.row_axis()], f"{base}.row")
        if isinstance(grid, HeadGrid):
            factors = constant(f"{base}.factors", np.array(grid.factors, np.float32).reshape(-1, 1, 1))
            source = add(reader, "Mul", [source, factors], f"{base}.heads")
        if isinstance(grid, RowGrid):
            keys = self.editor.shared("last_axis", np.array([-1], np.int64))
            self.largest[base] = add(reader, "ReduceMax", [source, keys], f"{base}.largest")
            source = add(reader, "Div", [source, self.largest[base]], f"{base}.normalized")
        if isinstance(inner, LogGrid):
            return self._logarithmic(source, inner, reader, base)
        scale = np.float32(inner.scale)
        if isinstance(inner, LevelGrid):
            moved = inner.table().numpy() - np.arange(LEVEL_TOP + 1, dtype=np.float32)
            table = constant(f"{base}.levels", moved * scale)
            return self._looked_up(source, scale, scale, np.int8(0), table, reader, f"{base}.fine")
        if inner.shift:
            source = add(reader, "Add", [source, constant(f"{base}.shift", np.float32(inner.shift))], f"{base}.shifted")
        low, high = (0, inner.highest) if isinstance(inner, UnsignedGrid) else code_range(inner.bits)
        if inner.bits < 8:
            ends = [constant(f"{base}.{n}", np.float32(c) * scale) for n, c in (("low", low), ("high", high))]
            source = add(reader, "Clip", [source, *ends], f"{base}.clipped")
        return source

    def _logarithmic(self, p: ir.Value, grid: LogGrid, reader: ir.Node, base: str) -> ir.Value:
        """The dequantized value of p, in units of the largest until the last step: one table, a quarter of a megabyte,
        serves all sites."""
        unit = np.float32(1) / np.float32(FINE_TOP)
        powers = log_powers(grid.bits, grid.steps)[log_table(grid.bits, grid.steps)].numpy()
        moved = powers - np.arange(FINE_TOP + 1, dtype=np.float32) * unit
        table = self.editor.shared(f"log2.{grid.steps}.q{grid.bits}", moved)
        rounded = self._looked_up(p, np.float32(grid.scale), unit, np.uint16(0), table, reader, base)
        largest = self.editor.constant(f"{base}.range", np.float32(grid.largest))
        return self.editor.add(reader, "Mul", [rounded, largest], f"{base}.power")

    def _looked_up(
        self,
        x: ir.Value,
        scale: np.float32,
        unit: np.float32,
        zero: np.generic,
        table: ir.Value,
        reader: ir.Node,
        name: str,
    ) -> ir.Value:
        """u * unit + table[u] with u the uniform codes of x on steps of `scale`.

        The table holds what is missing to the value wanted, so that the sum is that value and, unlike a look-up of
        the values themselves, has a gradient: the one that passes straight through the quantizer.
        """
        codes, value = self._pair(x, scale, unit, zero, name, reader)
        index = self.editor.add(
            reader, "Cast", [codes], f"{name}.index", ir.DataType.INT32, {"to": ir.DataType.INT32.value}
        )
        moved = self.editor.add(reader, "Gather", [table, index], f"{name}.moved")
        return self.editor.add(reader, "Add", [value, moved], f"{name}.rounded")

    def _pair(
        self, x: ir.Value, scale: np.float32, unit: np.float32, zero: np.generic, name: str, reader: ir.Node
    ) -> tuple[ir.Value, ir.Value]:
        """(codes, codes * unit), the codes called `name`."""
        parameters = [self.editor.constant(f"{name}.scale", scale), self.editor.constant(f"{name}.zero", zero)]
        dtype = ir.DataType.from_numpy(zero.dtype)
        codes = self.editor.add(reader, "QuantizeLinear", [x, *parameters], name, dtype=dtype)
        if unit != scale:
            parameters[0] = self.editor.constant(f"{name}.unit", unit)
        return codes, self.editor.add(reader, "DequantizeLinear", [codes, *parameters], f"{name}.value")
