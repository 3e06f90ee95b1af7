"""What goes into a graph and what comes out: inputs and outputs by name, with what each input is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from qvit_deploy.errors import InputError

Kind = Literal["image", "tokens", "mask", "tensor"]
Shape = tuple[int | str | None, ...]
"""Sizes; open dimensions by their names, or None."""

IMAGE = "image"
"""What the image input of a canonical graph is called."""

_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


@dataclass(frozen=True)
class Input:
    """One input of a graph.

    Attributes:
        kind: `image` for floats [batch, channels, height, width], `tokens` for integers (indices into a vocabulary),
            `mask` for booleans and what is named so, `tensor` for anything else.
        batch_axis: the axis that counts examples; None where one value serves all of them.
    """

    name: str
    kind: Kind
    shape: Shape
    dtype: ir.DataType | None
    batch_axis: int | None

    @property
    def static_batch(self) -> int | None:
        """How many examples it takes at a time, where that is fixed."""
        size = None if self.batch_axis is None else self.shape[self.batch_axis]
        return size if isinstance(size, int) else None


@dataclass(frozen=True)
class Output:
    """One output of a graph.

    Attributes:
        batch_axis: the axis that counts examples; None for an output that is one for all examples of a batch.
    """

    name: str
    shape: Shape
    dtype: ir.DataType | None
    batch_axis: int | None

    @property
    def is_float(self) -> bool:
        """Whether it is floating point; an output of unknown type counts as such."""
        return self.dtype is None or self.dtype.is_floating_point()


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a graph, in its order."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Interface:
        """Reads the interface off a model; initializers that are listed as inputs count as inputs too."""
        inputs = inputs_of([(value.name or "", _shape(value), value.dtype) for value in model.graph.inputs])
        return cls(inputs, tuple(_output(value, static_batch(inputs)) for value in model.graph.outputs))

    @property
    def image(self) -> Input:
        """The image input of a graph that takes one image and nothing else, float [batch, channels, height, width].

        Raises:
            InputError: there is no input, there are several, or the one is no image of known size, channels first.
        """
        if len(self.inputs) != 1:
            names = ", ".join(i.name for i in self.inputs) or "none"
            raise InputError(f"the model must have one image input, this one has {len(self.inputs)} ({names})")
        image = self.inputs[0]
        described = f"input {image.name!r} has shape {[str(d) for d in image.shape]}"
        if len(image.shape) != 4:
            raise InputError(f"{described}; an image input has four dimensions [batch, channels, height, width]")
        if image.kind != "image":
            raise InputError(f"input {image.name!r} is {image.dtype}; export the model with a float image input")
        if not all(isinstance(d, int) and d > 0 for d in image.shape[1:]):
            raise InputError(f"{described}; export it with fixed channels, height and width (only the batch may vary)")
        if image.shape[3] in (1, 3) and image.shape[1] not in (1, 3):
            raise InputError(f"{described}: channels come last; export it with channels first")
        return image

    @property
    def image_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of `image`. Raises InputError."""
        channels, height, width = (d for d in self.image.shape[1:] if isinstance(d, int))
        return channels, height, width

    @property
    def static_batch(self) -> int | None:
        """How many examples the graph takes at a time, where that is fixed; None where any number runs."""
        return static_batch(self.inputs)


def static_batch(inputs: Iterable[Input]) -> int | None:
    """Returns how many examples these inputs take at a time, where that is fixed; None where any number runs."""
    return next((size for i in inputs if (size := i.static_batch) is not None), None)


def is_fixed(shape: Shape, batch: int | None) -> bool:
    """Tells whether the first axis of an output has a length of its own, of a graph that takes `batch` examples at a
    time (None for any number): it does not count them then. Scalars have no axis that does."""
    return not shape or (isinstance(shape[0], int) and shape[0] != batch)


def _output(value: ir.Value, batch: int | None) -> Output:
    shape = _shape(value)
    return Output(value.name or "", shape, value.dtype, None if is_fixed(shape, batch) else 0)


def inputs_of(declared: Sequence[tuple[str, Shape, ir.DataType | None]]) -> tuple[Input, ...]:
    """Returns inputs by their (name, shape, type).

    The first axis of an image, or else of the first input that has any, counts examples. So does that of another input
    if it is open or as long; what is of another fixed length there is one value for all examples.
    """
    kinds = [_kind(name, shape, dtype) for name, shape, dtype in declared]
    lead = kinds.index("image") if "image" in kinds else next((i for i, (_, s, _) in enumerate(declared) if s), None)
    size = None if lead is None else declared[lead][1][0]

    def counts(index: int, shape: Shape) -> bool:
        return bool(shape) and (index == lead or not isinstance(shape[0], int) or shape[0] == size)

    return tuple(
        Input(name, kinds[i], shape, dtype, 0 if counts(i, shape) else None)
        for i, (name, shape, dtype) in enumerate(declared)
    )


def _kind(name: str, shape: Shape, dtype: ir.DataType | None) -> Kind:
    if dtype is not None and dtype.is_floating_point() and len(shape) == 4:
        return "image"
    if dtype == ir.DataType.BOOL or "mask" in name.lower():
        return "mask"
    return "tokens" if dtype in _INTEGERS else "tensor"


def _shape(value: ir.Value) -> Shape:
    return () if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
