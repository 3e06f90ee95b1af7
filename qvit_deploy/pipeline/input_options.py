"""How the model of a compile and its calibration images are read: one value from the command line to the reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.frontend.input_shapes import InputShapes


@dataclass(frozen=True)
class InputOptions:
    """How a model and its calibration images are read.

    Attributes:
        calib: DATA of the command line; unlabelled images are enough. None for those that a demo model brings.
        checkpoint: file with the weights of a timm model, which are random without it and `pretrained`.
        pretrained: let timm fetch its weights.
        preprocess: how pictures are prepared, in place of what the model's source says.
        input_shapes: fixes open sizes of an .onnx file's inputs.
        skip_bad_images: leave out images that cannot be read instead of stopping.
    """

    calib: str | None = None
    checkpoint: Path | None = None
    pretrained: bool = False
    preprocess: Preprocess | None = None
    input_shapes: InputShapes = field(default_factory=dict)
    skip_bad_images: bool = False
