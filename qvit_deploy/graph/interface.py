"""What goes into a graph and what comes out: inputs and outputs by name, with what each input is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
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
        kind: `mask` for booleans and what is named so, `image` for floats [batch, channels, height, width] that are not
            called embeddings (but for the only one of three channels, which may be called anything), or for uint8 of
            that form where no floats are; `tokens` for integers (indices into a vocabulary), `tensor` for all else.
        batch_axis: the axis that counts examples; None where one value serves all of them.
        given_name: what the model that was handed in calls it, where that is another name.
    """

    name: str
    kind: Kind
    shape: Shape
    dtype: ir.DataType | None
    batch_axis: int | None
    given_name: str | None = field(default=None, compare=False)

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

    def with_given_name(self, name: str) -> Interface:
        """Returns this interface with what the model that was handed in calls its image input."""
        return replace(self, inputs=with_given_name(self.inputs, name))

    @property
    def image(self) -> Input | None:
        """The image input, float or uint8 [batch, channels, height, width]; None where there is none or more than one.

        Raises:
            InputError: its channels come last.
        """
        images = [i for i in self.inputs if i.kind == "image"]
        if len(images) != 1:
            return None
        shape = images[0].shape
        if shape[3] in (1, 3) and shape[1] not in (1, 3):
            raise InputError(f"{described(images[0])}: channels come last; export it with channels first")
        return images[0]

    @property
    def image_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of `image`. Raises InputError where there is no image of known size."""
        if (image := self.image) is None:
            names = ", ".join(i.name for i in self.inputs) or "none"
            raise InputError(
                f"the model has no image input, or several (its inputs: {names}); an image is floating point [batch, "
                "channels, height, width]"
            )
        require_known(image)
        channels, height, width = (d for d in image.shape[1:] if isinstance(d, int))
        return channels, height, width

    @property
    def static_batch(self) -> int | None:
        """How many examples the graph takes at a time, where that is fixed; None where any number runs."""
        return static_batch(self.inputs)


def with_given_name(inputs: tuple[Input, ...], name: str | None) -> tuple[Input, ...]:
    """Returns inputs with what the model that was handed in calls the image, where that is another name."""
    images = [i for i in inputs if i.kind == "image"]
    if name is None or len(images) != 1:
        return inputs
    return tuple(replace(i, given_name=name) if i is images[0] else i for i in inputs)


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
    if "image" not in kinds:
        coloured = [i for i, (_, shape, dtype) in enumerate(declared) if _is_map(shape, dtype) and shape[1] == 3]
        if len(coloured) == 1:
            kinds[coloured[0]] = "image"
    if "image" not in kinds:
        kinds = ["image" if _is_pixels(kinds[i], *value[1:]) else kinds[i] for i, value in enumerate(declared)]
    lead = kinds.index("image") if "image" in kinds else next((i for i, (_, s, _) in enumerate(declared) if s), None)
    size = None if lead is None else declared[lead][1][0]

    def counts(index: int, shape: Shape) -> bool:
        return bool(shape) and (index == lead or not isinstance(shape[0], int) or shape[0] == size)

    return tuple(
        Input(name, kinds[i], shape, dtype, 0 if counts(i, shape) else None)
        for i, (name, shape, dtype) in enumerate(declared)
    )


def described(value: Input) -> str:
    """Returns an input and its shape, for messages."""
    return f"input {value.name!r} has shape {[str(d) for d in value.shape]}"


def require_known(value: Input) -> None:
    """Raises InputError if a size of the input is open that does not count examples, or is not positive."""
    sizes = [d for axis, d in enumerate(value.shape) if axis != value.batch_axis]
    if any(not isinstance(d, int) for d in sizes):
        fix = "x".join("N" if not isinstance(d, int) else str(d) for d in sizes)
        raise InputError(
            f"{described(value)}; fix the open ones with --input-shape {value.name}={fix} (only the batch may vary)"
        )
    if any(isinstance(d, int) and d < 1 for d in sizes):
        raise InputError(f"{described(value)}, which holds nothing; export the model again")


def _kind(name: str, shape: Shape, dtype: ir.DataType | None) -> Kind:
    if dtype == ir.DataType.BOOL or "mask" in name.lower():
        return "mask"
    if _is_map(shape, dtype) and "embed" not in name.lower():
        return "image"
    return "tokens" if dtype in _INTEGERS else "tensor"


def _is_pixels(kind: Kind, shape: Shape, dtype: ir.DataType | None) -> bool:
    return kind == "tensor" and dtype == ir.DataType.UINT8 and len(shape) == 4


def _is_map(shape: Shape, dtype: ir.DataType | None) -> bool:
    return dtype is not None and dtype.is_floating_point() and len(shape) == 4


def _shape(value: ir.Value) -> Shape:
    return () if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
