"""Splits images into batches of the size that a runtime takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qvit_deploy.data.padding import padded
from qvit_deploy.errors import InputError

DEFAULT_BATCH = 8
"""Images per run of a graph that takes any number: a session keeps the memory of its largest run."""


def in_batches(
    images: np.ndarray, static_batch: int | None, run: Callable[[np.ndarray], Sequence[np.ndarray]]
) -> list[np.ndarray]:
    """Runs `images` [n, ...] and returns the outputs, each [n, ...].

    Args:
        static_batch: images that `run` must get, or None for any number; the last batch is padded.
    """
    size = static_batch or DEFAULT_BATCH
    chunks = []
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        batch = padded(chunk, static_batch)
        outputs = [np.asarray(o) for o in run(batch)]
        # Only padding is cut: an intermediate tensor may hold several rows, such as windows, of one image.
        chunks.append([o[: len(chunk)] for o in outputs] if len(batch) > len(chunk) else outputs)
    return [np.concatenate(parts) for parts in zip(*chunks, strict=True)]


def run_shape(
    path: str, name: str, declared: Sequence[int | str | None], batch: int | None, any_batch: int = 1
) -> tuple[int, ...]:
    """Returns the shape to run a model's images with.

    Args:
        path, name: of the file and of its input, for messages.
        declared: shape in the file; open dimensions by name, or None.
        batch: images per run; None for the file's own number, or `any_batch` where it takes any number.

    Raises:
        InputError: the input is not a batch of images of one size, or the file takes batches of another size.
    """
    if not declared:
        raise InputError(f"{path}: input {name!r} is a scalar; images come in batches")
    first, *rest = declared
    unknown = [d for d in rest if not isinstance(d, int)]
    if unknown:
        raise InputError(f"{path}: input {name!r} has the open dimension {unknown[0]!r}; fix its image size")
    if isinstance(first, int):
        if batch not in (None, first):
            raise InputError(f"{path}: takes batches of {first} only; leave --batch out, or compile it for {batch}")
        batch = first
    return (batch or any_batch, *(d for d in rest if isinstance(d, int)))
