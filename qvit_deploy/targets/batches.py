"""Splits images into batches of the size that a runtime takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qvit_deploy.data.padding import padded
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import Input, Shape, is_fixed, static_batch

DEFAULT_BATCH = 8
"""Images per run of a graph that takes any number: a session keeps the memory of its largest run."""

RUN_BYTES = 16 << 20
"""Input bytes per run of a graph that takes any number. What a run computes is some hundred times as large: 0.1 GB an
image for ViT-B at 224 pixels, several GB for a detector at 800 x 1344."""


def at_once(images: Examples[np.ndarray], most: int) -> int:
    """Returns how many of `images` to run at a time: up to `most`, fewer of large ones, at least one."""
    each = sum(array.nbytes for array in images.arrays.values()) / max(len(images), 1)
    return max(1, min(most, int(RUN_BYTES / max(each, 1))))


def in_batches(
    images: Examples[np.ndarray],
    static_batch: int | None,
    run: Callable[[Examples[np.ndarray]], Sequence[np.ndarray]],
) -> list[np.ndarray]:
    """Runs `images` and returns the outputs, each [n, ...].

    Args:
        static_batch: images that `run` must get, or None for any number; the last batch is padded.
    """
    size = static_batch or at_once(images, DEFAULT_BATCH)
    chunks = []
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        batch = padded(chunk, static_batch)
        outputs = [np.asarray(o) for o in run(batch)]
        # Only padding is cut: an intermediate tensor may hold several rows, such as windows, of one image.
        chunks.append([o[: len(chunk)] for o in outputs] if len(batch) > len(chunk) else outputs)
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def outputs_in_batches(
    images: Examples[np.ndarray],
    size: int | None,
    run: Callable[[Examples[np.ndarray]], Sequence[np.ndarray]],
    declared: Sequence[Shape],
    fixed: int | None,
) -> list[np.ndarray]:
    """Runs `images` as `in_batches` does, and repeats outputs that are the same for all examples of a run.

    Args:
        size: its `static_batch`.
        declared: shapes of the outputs in the file; empty where it does not say.
        fixed: the number of examples that the file takes, None for any.
    """

    def for_each(output: np.ndarray, shape: Shape, count: int) -> np.ndarray:
        one = output.ndim == 0 or (bool(shape) and is_fixed(shape, fixed) and output.shape[0] == shape[0])
        # Exporters write the length they saw, 1 or 2, over an axis that counts examples all the same.
        if one and (output.ndim == 0 or count != shape[0] or count > 2):
            return np.broadcast_to(output, (count, *output.shape))
        return output

    def run_for_each(batch: Examples[np.ndarray]) -> list[np.ndarray]:
        outputs = [np.asarray(o) for o in run(batch)]
        return [for_each(o, shape, len(batch)) for o, shape in zip(outputs, declared, strict=True)]

    return in_batches(images, size, run_for_each)


def run_batch(path: str, inputs: Sequence[Input], batch: int | None, any_batch: int = 1) -> int:
    """Returns how many examples to run a model with at a time.

    Args:
        path: of the file, for messages.
        batch: examples per run; None for the file's own number, or `any_batch` where it takes any number.

    Raises:
        InputError: no input counts examples, a size besides their number is open, or the file takes another number.
    """
    if all(value.batch_axis is None for value in inputs):
        described = f"input {inputs[0].name!r} is a scalar" if inputs else "there is no input"
        raise InputError(f"{path}: {described}; images come in batches")
    for value in inputs:
        unknown = [d for axis, d in enumerate(value.shape) if axis != value.batch_axis and not isinstance(d, int)]
        if unknown:
            raise InputError(f"{path}: input {value.name!r} has the open dimension {unknown[0]!r}; fix its image size")
    fixed = static_batch(inputs)
    if fixed is not None and batch not in (None, fixed):
        raise InputError(f"{path}: takes batches of {fixed} only; leave --batch out, or compile it for {batch}")
    return fixed or batch or any_batch
