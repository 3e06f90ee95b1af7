"""A file opened in the runtime it is for, and the logits of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvit_deploy.data.images import ImageSet
from qvit_deploy.progress import Advance
from qvit_deploy.targets.registry import REFERENCE, runtime_of
from qvit_deploy.targets.runtime import OpenedModel
from qvit_deploy.tasks.task import Arrays

BATCH = 16
"""Images per run of a graph that takes any number, where nothing but outputs is kept."""


def open_model(model: Path | bytes, threads: int = 0) -> OpenedModel:
    """Loads a file, or the bytes of one for ONNX Runtime.

    Raises:
        InputError: its runtime is not installed or does not take it.
    """
    runtime = runtime_of(model) if isinstance(model, Path) else REFERENCE.runtime
    return runtime.open(model, threads)


def outputs(opened: OpenedModel, images: ImageSet, advance: Advance) -> Arrays:
    """The outputs for all images by name, each [n, ...]; `advance` counts images."""
    chunks = []
    for pixels, _ in images.batches(opened.static_batch or BATCH):
        chunks.append(opened.run(pixels))
        advance(len(pixels))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
