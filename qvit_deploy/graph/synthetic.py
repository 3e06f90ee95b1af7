"""Values for a graph's inputs where no data is at hand: to measure shapes and times, and to trace channels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import Input


def blank(inputs: Iterable[Input], count: int) -> Examples[np.ndarray]:
    """Returns `count` examples of zeros, of ones for masks (which hide nothing). Raises InputError as `shape_of`."""
    return _examples(inputs, count, None)


def noise(inputs: Iterable[Input], count: int, seed: int = 0) -> Examples[np.ndarray]:
    """Returns `count` examples: normally distributed floats, evenly distributed pixels, zeros for tokens, which every
    vocabulary has, and ones for masks. Raises InputError as `shape_of`."""
    return _examples(inputs, count, np.random.default_rng(seed))


def shape_of(value: Input, count: int) -> tuple[int, ...]:
    """Returns the shape of an input for `count` examples. Raises InputError if a dimension besides theirs is open."""
    shape = [count if axis == value.batch_axis else size for axis, size in enumerate(value.shape)]
    sizes = tuple(size for size in shape if isinstance(size, int))
    if len(sizes) < len(shape):
        open_size = next(size for size in shape if not isinstance(size, int))
        raise InputError(f"input {value.name!r} has the open dimension {open_size!r}; fix it with --input-shape")
    return sizes


def _examples(inputs: Iterable[Input], count: int, random: np.random.Generator | None) -> Examples[np.ndarray]:
    arrays, shared = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for value in inputs:
        place = shared if value.batch_axis is None else arrays
        place[value.name] = _array(value, shape_of(value, count), random)
    return Examples(arrays, shared)


def _array(value: Input, shape: tuple[int, ...], random: np.random.Generator | None) -> np.ndarray:
    if value.dtype is None:
        raise InputError(f"input {value.name!r} has no element type; export the model again")
    dtype = value.dtype.numpy()
    if value.kind == "mask":
        return np.ones(shape, dtype)
    if value.kind == "image" and random is not None and dtype == np.uint8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    if value.kind == "tokens" or random is None or not value.dtype.is_floating_point():
        return np.zeros(shape, dtype)
    return random.standard_normal(shape, dtype=np.float32).astype(dtype)
