"""Quantizers of activations, shared between the readers of a tensor as far as the runtime lets them be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from qvit_deploy.emit.editor import Editor
from qvit_deploy.emit.names import codes_name
from qvit_deploy.formats.grids.grid import Grid, Prepared


@dataclass(frozen=True)
class Quantized:
    """An activation as one product reads it.

    Attributes:
        source: what is quantized.
        codes: name of its codes.
        value: the dequantized value, before the product's output undoes the grid's residue.
        largest: the largest value of every row, where rows were divided by it.
    """

    source: ir.Value
    codes: str
    value: ir.Value
    largest: ir.Value | None


class Quantizers:
    """The activation quantizers of one graph."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self._prepared: dict[str, Prepared] = {}
        self._readers: Counter[str] = Counter()
        self._shared: dict[str, Quantized] = {}

    def quantized(self, x: ir.Value, grid: Grid, reader: ir.Node) -> Quantized:
        """Quantizes x on its grid, for one reader.

        All readers share one pair, except in ONNX Runtime, where they share the shifted and clipped tensor but not the
        pair: on x86 it makes an int8 pair uint8 before it fuses, and passes over pairs with several readers (separate
        q, k and v would run in float).
        """
        base = codes_name(x.name or "", grid.format)
        emitter = _BeforeReader(self.editor, reader)
        if base not in self._prepared:
            source = x
            if self.editor.lifts(x):
                source = emitter.add("Unsqueeze", [source, self.editor.row_axis()], f"{base}.row")
            self._prepared[base] = grid.prepare(source, base, emitter)
        prepared, pair = self._prepared[base], grid.pair
        if pair is None:
            return Quantized(prepared.source, base, prepared.value, prepared.largest)
        if not self.editor.for_onnxruntime and base in self._shared:
            return self._shared[base]
        self._readers[base] += 1
        # A scale of its own too: pairs with one and the same scale would be merged.
        name = base if self._readers[base] == 1 else f"{base}.{self._readers[base]}"
        codes, value = pair.write(prepared.value, name, emitter)
        for written in (codes, value):
            written.shape = x.shape if not self.editor.lifts(x) else None
        self._shared[base] = Quantized(prepared.source, codes.name or "", value, prepared.largest)
        return self._shared[base]


class _BeforeReader:
    """Writes what a grid asks for in front of one reader (`formats.emitter.Emitter`)."""

    def __init__(self, editor: Editor, reader: ir.Node) -> None:
        self._editor, self._reader = editor, reader

    def add(
        self,
        op_type: str,
        inputs: list[ir.Value],
        output: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        return self._editor.add(self._reader, op_type, inputs, output, dtype, attributes)

    def constant(self, name: str, array: np.ndarray | np.generic) -> ir.Value:
        return self._editor.constant(name, array)

    def shared(self, name: str, array: np.ndarray) -> ir.Value:
        return self._editor.shared(name, array)
