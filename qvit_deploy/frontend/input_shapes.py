"""Fixes open sizes of a model's inputs: heights, widths, lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import onnx_ir as ir

from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Input, Interface, Shape

InputShapes = Mapping[str, tuple[int, ...]]
"""Input -> sizes, without that of the batch or with it; "" for the image, or the only input."""

NO_SHAPES: InputShapes = MappingProxyType({})
OPTION = "--input-shape"


def parse_input_shapes(texts: Iterable[str]) -> InputShapes:
    """Reads shapes such as `3x512x512` and `NAME=3x512x512`. Raises InputError."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(size) for size in sizes.lower().split("x"))
        except ValueError:
            shape = ()
        if not shape or min(shape) < 1:
            raise InputError(f"{OPTION} {text!r}: give sizes like 3x512x512, or NAME=3x512x512 for one of several")
        if name in shapes:
            raise InputError(f"{OPTION} gives the shape of {name or 'the image'} twice")
        shapes[name] = shape
    return shapes


def fix_shapes(model: ir.Model, shapes: InputShapes) -> None:
    """Writes `shapes` into the inputs of a model as an exporter left it.

    An open size with a name is fixed wherever an input has that name.

    Raises:
        InputError: there is no such input, or its shape is another.
    """
    if not shapes:
        return
    for listed in [v for v in model.graph.inputs if v.is_initializer()]:
        model.graph.inputs.remove(listed)
    interface = Interface.of(model)
    symbols: dict[str, int] = {}
    for name, sizes in shapes.items():
        value = _named(interface, name)
        declared = value.shape
        rest = declared[1:] if len(sizes) == len(declared) - 1 and value.batch_axis is not None else declared
        if len(rest) != len(sizes) or any(isinstance(d, int) and d != n for d, n in zip(rest, sizes, strict=True)):
            raise InputError(
                f"{OPTION} {'x'.join(map(str, sizes))} does not fit input {value.name!r}, which has shape "
                f"{[str(d) for d in declared]}"
            )
        _fix(model, value.name, (*declared[: len(declared) - len(rest)], *sizes))
        symbols |= {d: size for d, size in zip(rest, sizes, strict=True) if isinstance(d, str)}
    for value in Interface.of(model).inputs:
        fixed = tuple(symbols.get(d, d) if isinstance(d, str) else d for d in value.shape)
        if fixed != value.shape:
            _fix(model, value.name, fixed)


def _named(interface: Interface, name: str) -> Input:
    if not name:
        image = interface.image or (interface.inputs[0] if len(interface.inputs) == 1 else None)
        if image is not None:
            return image
    wanted = next((value for value in interface.inputs if value.name == name), None)
    if wanted is None:
        has = ", ".join(value.name for value in interface.inputs)
        wrong = f"there is no input {name!r}" if name else "the model has several inputs, say which with NAME="
        raise InputError(f"{OPTION}: {wrong} (it has {has})")
    return wanted


def _fix(model: ir.Model, name: str, shape: Shape) -> None:
    value = next(value for value in model.graph.inputs if value.name == name)
    value.shape = ir.Shape(shape)
