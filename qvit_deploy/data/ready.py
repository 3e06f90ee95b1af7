"""Ready tensors: values of a model's inputs as it takes them, from `.npy` and `.npz`, without preprocessing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.lib import format as npy
from numpy.typing import NDArray

from qvit_deploy.data.example_set import ExampleSet, update
from qvit_deploy.data.npz import element_name, read_header
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import Input
from qvit_deploy.graph.synthetic import shape_of

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class TensorSet(ExampleSet):
    """N examples in memory, or in a file that is mapped to it."""

    examples: Examples[Array]
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    label_maps: Path | None = None

    def between(self, start: int, stop: int) -> Examples[Array]:
        return self.examples[start:stop].map(np.ascontiguousarray)

    def take(self, indices: NDArray[np.intp]) -> TensorSet:
        return replace(
            self,
            examples=self.examples.at(indices),
            names=tuple(self.names[i] for i in indices),
            labels=None if self.labels is None else self.labels[indices],
        )

    @cached_property
    def digest(self) -> str:
        sha = hashlib.sha256()
        update(sha, self.examples)
        sha.update(b"unlabelled" if self.labels is None else self.labels.astype("<i8").tobytes())
        return sha.hexdigest()


def read_npy(path: Path) -> Array:
    """Reads a `.npy` file, which is checked against its header before anything is allocated.

    Raises:
        InputError: it is damaged, truncated, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            shape, _, dtype = read_header(file)
            offset = file.tell()
        if dtype.hasobject:
            raise InputError(f"{path} holds Python objects, which are never loaded; store plain numbers")
        if math.prod(shape) * dtype.itemsize > path.stat().st_size - offset:
            raise InputError(f"{path} is truncated")
        return npy.open_memmap(path, mode="r") if math.prod(shape) else np.empty(shape, dtype)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception:  # numpy raises ValueError, SyntaxError, EOFError, ... for headers it cannot parse
        raise InputError(f"{path} is not a .npy file, or is damaged; write it with numpy.save") from None


def tensors_of_file(path: Path, inputs: tuple[Input, ...]) -> TensorSet:
    """Reads a `.npy` file of all examples of a model with one input.

    Raises:
        InputError: it cannot be read, or does not fit the model.
    """
    value = _only(inputs, f"{path}")
    array = fitted(f"{path}", read_npy(path), value)
    names = tuple(element_name(path.stem, i) for i in range(len(array)))
    return TensorSet(Examples({value.name: array}), names)


def tensors_of_folder(files: tuple[Path, ...], inputs: tuple[Input, ...]) -> TensorSet:
    """Reads `.npy` files of one example each, for a model with one input.

    Raises:
        InputError: one cannot be read, or does not fit the model.
    """
    value = _only(inputs, f"{files[0].parent}")
    rows = []
    for path in files:
        array = read_npy(path)
        array = array if array.ndim == len(value.shape) else array[None]
        if len(array) != 1:
            raise InputError(f"{path} has {len(array)} examples; a folder has one in each file, or pass the file alone")
        rows.append(fitted(f"{path}", array, value))
    return TensorSet(Examples({value.name: np.concatenate(rows)}), tuple(path.name for path in files))


def fitted_examples(where: str, arrays: Mapping[str, Array], inputs: tuple[Input, ...]) -> Examples[Array]:
    """Returns the arrays of an archive as the inputs of these names take them. Raises InputError if they do not fit."""
    counted, shared = dict[str, Array](), dict[str, Array]()
    for value in inputs:
        place = shared if value.batch_axis is None else counted
        place[value.name] = fitted(f"{where}: {value.name!r}", arrays[value.name], value)
    sizes = {name: len(array) for name, array in counted.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"{where}: the inputs have different numbers of examples ({listed})")
    return Examples(counted, shared)


def fitted(where: str, array: Array, value: Input) -> Array:
    """Returns an array as an input takes it: in its type, channels first.

    Raises:
        InputError: its type or shape is not that of the input, or it holds NaN or infinity.
    """
    got, wanted = f"{array.dtype} {list(array.shape)}", _wanted(value)
    count = len(array) if array.ndim and value.batch_axis is not None else 0
    shape = shape_of(value, count)
    if value.kind == "image" and array.ndim == 4 and array.shape != shape and _last(array.shape) == shape:
        array = np.moveaxis(array, -1, 1)
    if array.shape != shape or (value.batch_axis is not None and not count):
        raise InputError(f"{where} must be {wanted}, got {got}")
    assert value.dtype is not None
    dtype = value.dtype.numpy()
    if value.dtype.is_floating_point():
        if array.dtype.kind != "f":
            raise InputError(f"{where} must be {wanted}, got {got}; store the values that the model takes")
        if not np.isfinite(array).all():
            raise InputError(f"{where} holds NaN or infinity")
        return array.astype(dtype, copy=False)
    if array.dtype.kind not in "iub":
        raise InputError(f"{where} must be {wanted}, got {got}")
    converted = array.astype(dtype)
    if not np.array_equal(converted, array):
        raise InputError(f"{where} has values that {dtype} does not hold")
    return converted


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns [N, C, H, W] of a shape [N, H, W, C]."""
    return (shape[0], shape[3], shape[1], shape[2])


def _wanted(value: Input) -> str:
    sizes = ["N" if axis == value.batch_axis else str(size) for axis, size in enumerate(value.shape)]
    kind = "floats" if value.dtype is not None and value.dtype.is_floating_point() else "integers"
    if value.dtype == ir.DataType.UINT8:
        kind = "pixels (uint8, which the model normalizes itself)" if value.kind == "image" else "uint8"
    return f"{kind} [{', '.join(sizes)}]"


def _only(inputs: tuple[Input, ...], where: str) -> Input:
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs)
        raise InputError(f"{where}: the model has several inputs ({names}); pass an .npz with an array for each")
    return inputs[0]
