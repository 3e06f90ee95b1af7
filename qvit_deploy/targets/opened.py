"""A file opened in the runtime it is for: ONNX Runtime, or OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qvit_deploy.targets import onnxruntime, openvino


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A loaded model.

    Attributes:
        shape: declared, of the images: sizes, or names of open dimensions.
        run: images float32 [n, C, H, W] -> the first output, [n, ...].
    """

    shape: Sequence[int | str | None]
    run: Callable[[np.ndarray], np.ndarray]

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
        return OpenedModel(compiled.declared, lambda images: compiled.run(images)[0])
    runner = onnxruntime.session(model, threads)
    shape = runner.get_inputs()[0].shape
    static = shape[0] if isinstance(shape[0], int) else None
    return OpenedModel(shape, lambda images: onnxruntime.run(runner, images, static)[0])
