"""Folds shape arithmetic: constants are computed and every shape is known up to the batch size.

The model runs at batch 2 and at batch 3 (`measure.py`). Whatever does not depend on pixels has a value in both
runs; whatever does has a shape in both. Rules, in order:
1. a value equal in both runs becomes an initializer (one run is enough when nothing above it read a shape);
2. a dimension equal in both runs is that number; one that grows by k per image is the symbol "batch" (k=1) or
   "k*batch";
3. a Reshape gets the constant target that its measured output shape dictates, -1 where the batch is;
4. any other integer vector that grows with the batch (the target of Expand or Tile, the end of a Slice) is
   rebuilt as Concat of constants and k * Shape(image)[0:1];
5. a tensor that merely repeats along the batch becomes Expand of one copy; so does one that repeats a block of several
   (batch x heads), or each of several as many times as there are images, with a Reshape behind it;
6. a Gather of all elements in their order (torch's as_strided of a contiguous tensor) becomes a Reshape.
A model that only runs at the batch size it was exported with keeps that size, and one run folds everything; one that
declares any size but does not run so gets 1, with a warning.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from qvit_deploy.errors import InputError, UnsupportedOpError
from qvit_deploy.graph.canonicalize.interface import BATCH, set_batch
from qvit_deploy.graph.canonicalize.measure import Measurement, Probe
from qvit_deploy.graph.canonicalize.provenance import Provenance
from qvit_deploy.graph.edit import (
    add_ints,
    emit,
    free_name,
    register_constant,
    remove_unused,
    replace,
    shape_constant,
    value_names,
)
from qvit_deploy.graph.interface import Interface
from qvit_deploy.graph.query import Dim, dims

_SMALL, _LARGE = 2, 3


def specialise(model: ir.Model) -> None:
    """Applies the rules in place. Raises InputError when ONNX Runtime cannot run the model."""
    graph = model.graph
    common.ShapeInferencePass()(model)  # for element types; shapes are measured below
    provenance = Provenance(graph)
    frontier = [str(v.name) for v in provenance.frontier]
    outputs = [str(v.name) for v in graph.outputs if v in provenance.activations]
    probe = Probe(model, [str(v.name) for v in provenance.activations], frontier)
    small, large = _measure(probe, model, frontier, provenance.varying, outputs)
    for value in provenance.activations:
        name = str(value.name)
        value.shape = ir.Shape(_symbolic(small.shapes[name], large.shapes[name]))
    builder = _Builder(model)
    for node in list(graph):
        if node.op_type == "Reshape" and node in provenance.data_nodes:
            _fix_reshape(node, builder)
    for value in provenance.frontier:
        readers = [(u.node, u.idx) for u in value.uses() if u.node in provenance.data_nodes]
        if not readers and not value.is_graph_output():
            continue
        name = str(value.name)
        a, b = small.values[name], large.values.get(name, small.values[name])
        if a.shape == b.shape and np.array_equal(a, b):
            new = builder.constant(value, provenance.weight_name(value) or name, a)
        elif _counts_up(a) and _counts_up(b) and all(_reads_flat(reader) for reader, _ in readers):
            for reader, _ in readers:
                _gather_to_reshape(reader, builder)
            continue
        else:
            new = builder.rebuild(value, provenance.weight_name(value) or name, a, b)
        for reader, index in readers:
            reader.replace_input_with(index, new)
        if value.is_graph_output():
            value.shape = ir.Shape(_symbolic(a.shape, b.shape))
            replace(value, new)
    remove_unused(model)
    used = value_names(graph)
    for new, name in builder.names:
        if new.uses():
            used.remove(str(new.name))
            new.name = free_name(name, used)
            used.add(new.name)


def _measure(
    probe: Probe, model: ir.Model, frontier: Sequence[str], varying: set[str], outputs: Sequence[str]
) -> tuple[Measurement, Measurement]:
    batch = Interface.of(model).static_batch
    if batch is None:
        try:
            small = probe.run(_SMALL, frontier)
            large = probe.run(_LARGE, [v for v in frontier if v in varying])
            if all(small.shapes[name] != large.shapes[name] for name in outputs):
                return small, large
        except Exception:  # onnxruntime's exception types are not importable
            pass  # the run at one image below reports whatever is really wrong
        # Declared dynamic, but the batch the model was exported with is written into it somewhere.
        batch = 1
        set_batch(model, batch)
        logging.getLogger(__name__).warning(
            "the model declares a batch of any size, and that of its export is written into it (or an output counts "
            "no images): the files take 1 image at a time"
        )
    try:
        only = probe.run(batch, frontier)
    except Exception as error:
        raise InputError(f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}") from error
    return only, only


def _symbolic(small: Sequence[int], large: Sequence[int]) -> list[Dim]:
    """Applies rule 2: dimensions at batch 2 and at batch 3 -> dimensions."""
    return [_dimension(a, b) for a, b in zip(small, large, strict=True)]


def _dimension(small: int, large: int) -> Dim:
    if small == large:
        return small
    slope, offset = _affine(small, large)
    name = BATCH if slope == 1 else f"{slope}*{BATCH}"
    return name if offset == 0 else f"{name}{offset:+d}"


def _affine(small: int, large: int) -> tuple[int, int]:
    """Returns (slope, offset) of slope * batch + offset through the two measured points."""
    slope = (large - small) // (_LARGE - _SMALL)
    return slope, small - slope * _SMALL


def _fix_reshape(node: ir.Node, builder: _Builder) -> None:
    """Applies rule 3."""
    target = shape_constant(builder.graph, dims(node.outputs[0]))
    if target is not None:
        node.replace_input_with(1, target)
        node.attributes.pop("allowzero", None)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Tells whether two arrays are equal, where both have NaN too."""
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _counts_up(indices: np.ndarray) -> bool:
    return indices.dtype == np.int64 and np.array_equal(indices.reshape(-1), np.arange(indices.size))


def _reads_flat(node: ir.Node) -> bool:
    """Tells whether `node` gathers from a vector, so that counting indices give every element (or a leading part)."""
    data = node.inputs[0]
    return node.op_type == "Gather" and data is not None and dims(data) == _flat_dims(node.outputs[0])


def _flat_dims(value: ir.Value) -> list[Dim] | None:
    """Returns the shape `value` would have as a vector, or None when that is not a multiple of the batch."""
    shape = dims(value)
    number = math.prod(d for d in shape if isinstance(d, int))
    symbols = [d for d in shape if isinstance(d, str)]
    if symbols != [BATCH]:
        return None
    return [BATCH if number == 1 else f"{number}*{BATCH}"]


def _gather_to_reshape(node: ir.Node, builder: _Builder) -> None:
    """Applies rule 6."""
    out = node.outputs[0]
    target = shape_constant(builder.graph, dims(out))
    reshaped = emit(node, "Reshape", [node.inputs[0], target], dims(out), dtype=out.dtype or ir.DataType.FLOAT)
    replace(out, reshaped)
    builder.graph.remove(node, safe=True)


class _Builder:
    """Emits, in front of all other nodes, what has to be computed from the batch size at run time."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self._first = next(iter(model.graph))
        self._batch: ir.Value | None = None
        inputs = zip(model.graph.inputs, Interface.of(model).inputs, strict=True)
        self._counted = next(value for value, described in inputs if described.batch_axis is not None)
        # Constants and the names they are to have once what they were folded from is gone.
        self.names: list[tuple[ir.Value, str]] = []
        self._used = value_names(model.graph)

    def constant(self, value: ir.Value, name: str, array: np.ndarray) -> ir.Value:
        """Registers what `value` was folded to, which is called `name` once `value` is gone."""
        unique = free_name(f"folded/{value.name}", self._used)
        self._used.add(unique)
        new = register_constant(self.graph, unique, array)
        self.names.append((new, name))
        return new

    def rebuild(self, value: ir.Value, name: str, small: np.ndarray, large: np.ndarray) -> ir.Value:
        """Applies rules 4 and 5 to a `value` measured as `small` and `large`; `name` is for the copy of rule 5."""
        if small.shape == large.shape and small.dtype == np.int64 and small.ndim <= 1:
            vector = self._vector(small.reshape(-1).tolist(), large.reshape(-1).tolist())
            return vector if small.ndim else self._emit("Reshape", [vector, add_ints(self.graph, [])], [])
        axes = [i for i, (a, b) in enumerate(zip(small.shape, large.shape, strict=False)) if a != b]
        if small.ndim == large.ndim and len(axes) == 1:
            repeated = self._repeat(value, name, small, large, axes[0])
            if repeated is not None:
                return repeated
        node = value.producer()
        raise UnsupportedOpError(
            node.op_type if node else "input",
            (node.name if node else value.name) or "",
            "its constant result depends on the batch size; export the model with a fixed batch size",
        )

    def _repeat(self, value: ir.Value, name: str, small: np.ndarray, large: np.ndarray, axis: int) -> ir.Value | None:
        """Applies rule 5 to a `value` whose sizes differ along `axis` only; returns None when it does not repeat."""
        count, offset = _affine(small.shape[axis], large.shape[axis])
        if offset or not count:
            return None
        shape, dtype = _symbolic(small.shape, large.shape), ir.tensor(small).dtype
        block = np.take(small, range(count), axis=axis)
        each = np.take(small, range(0, small.shape[axis], _SMALL), axis=axis)
        wholes = (_SMALL, small), (_LARGE, large)
        in_turn = all(_equal(np.concatenate([block] * n, axis), whole) for n, whole in wholes)
        if not in_turn and not all(_equal(np.repeat(each, n, axis), whole) for n, whole in wholes):
            return None
        copy = self.constant(value, name, block if in_turn else each)
        if count == 1:
            return self._emit("Expand", [copy, self._vector(list(small.shape), list(large.shape))], shape, dtype)
        # The images get an axis of their own, in front of the block or behind its elements, that is merged again.
        new = axis if in_turn else axis + 1
        sizes = [list(block.shape) for _ in range(3)]
        for one, n in zip(sizes, (1, _SMALL, _LARGE), strict=True):
            one.insert(new, n)
        lifted = self._emit("Reshape", [copy, add_ints(self.graph, sizes[0])], sizes[0], dtype)
        expanded = self._emit("Expand", [lifted, self._vector(*sizes[1:])], _symbolic(*sizes[1:]), dtype)
        target = shape_constant(self.graph, shape)
        assert target is not None
        return self._emit("Reshape", [expanded, target], shape, dtype)

    def _vector(self, small: list[int], large: list[int]) -> ir.Value:
        """Applies rule 4: an int64 vector that is `small` at batch 2 and `large` at batch 3."""
        pieces: list[ir.Value] = []
        constants: list[int] = []
        for a, b in zip(small, large, strict=True):
            slope, offset = _affine(a, b)
            if slope == 0:
                constants.append(a)
                continue
            if constants:
                pieces.append(add_ints(self.graph, constants))
                constants = []
            piece = self._batch_size()
            if slope != 1:
                piece = self._emit("Mul", [piece, add_ints(self.graph, [slope])], [1])
            if offset:
                piece = self._emit("Add", [piece, add_ints(self.graph, [offset])], [1])
            pieces.append(piece)
        if constants:
            pieces.append(add_ints(self.graph, constants))
        if len(pieces) == 1:
            return pieces[0]
        return self._emit("Concat", pieces, [len(small)], axis=0)

    def _batch_size(self) -> ir.Value:
        if self._batch is None:
            self._batch = self._emit("Shape", [self._counted], [1], start=0, end=1)
        return self._batch

    def _emit(
        self,
        op_type: str,
        inputs: list[ir.Value],
        shape: Sequence[Dim],
        dtype: ir.DataType = ir.DataType.INT64,
        **attributes: int,
    ) -> ir.Value:
        output = emit(self._first, op_type, inputs, shape, dict(attributes), dtype)
        node = output.producer()
        assert node is not None
        node.name = f"batch/{op_type}"
        node.metadata_props.clear()
        return output
