"""A file opened in the runtime it is for: ONNX Runtime, or OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qvit_deploy.data.images import ImageSet
from qvit_deploy.progress import Advance
from qvit_deploy.targets.onnxruntime import runtime as onnxruntime
from qvit_deploy.targets.openvino import runtime as openvino
from qvit_deploy.tasks.task import Arrays

BATCH = 16
"""Images per run of a graph that takes any number, where nothing but outputs is kept."""


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A loaded model.

    Attributes:
        shape: declared, of the images: sizes, or names of open dimensions.
        run: images float32 [n, C, H, W] -> the outputs by name, each [n, ...].
    """

    shape: Sequence[int | str | None]
    run: Callable[[np.ndarray], Arrays]

    @property
    def static_batch(self) -> int | None:
        """The number of images it takes at a time, where that is fixed."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], int) else None


def open_model(model: Path | bytes, threads: int = 0) -> OpenedModel:
    """Loads a file, or the bytes of one for ONNX Runtime.

    Raises:
        InputError: its runtime is not installed or does not take it.
    """
    if isinstance(model, Path) and openvino.runs_in_openvino(model):
        compiled = openvino.OpenVinoModel(model, threads=threads, precision=openvino.openvino_precision(model))
        return OpenedModel(compiled.declared, compiled.outputs)
    runner = onnxruntime.session(model, threads)
    shape = runner.get_inputs()[0].shape
    static = shape[0] if isinstance(shape[0], int) else None
    return OpenedModel(shape, lambda images: onnxruntime.outputs(runner, images, static))


def outputs(opened: OpenedModel, images: ImageSet, advance: Advance) -> Arrays:
    """The outputs for all images by name, each [n, ...]; `advance` counts images."""
    chunks = []
    for pixels, _ in images.batches(opened.static_batch or BATCH):
        chunks.append(opened.run(pixels))
        advance(len(pixels))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
