"""A detector as ONNX files: exported, the trunk compiled, and opened together.

The heads of regions stay in float: their inputs are features, no images, and so far DATA is images only.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import qvit_deploy
from qvit_deploy.artifacts.manifest import Manifest
from qvit_deploy.graph.examples import Examples
from qvit_deploy.progress import Progress
from qvit_deploy.recipe import Recipe
from qvit_deploy.targets.runtime import ModelSession
from qvit_deploy.targets.session import open_model
from tools.paper.coco.detector import BOX_SIDE, MASK_SIDE, Architecture, BoxHead, Detector, Masks, Trunk
from tools.paper.coco.pictures import preprocess

TRUNK, MASKS = "trunk.onnx", "masks.onnx"


def export(detector: Detector, sizes: Architecture, canvas: tuple[int, int], folder: Path) -> None:
    """Writes the detector's parts into `folder`, each with any batch: the trunk, a box head per stage, the masks."""
    detector.eval()
    _export(detector.trunk, (3, *canvas), folder / TRUNK)
    for stage, head in enumerate(detector.box_heads):
        _export(head, (sizes.channels, BOX_SIDE, BOX_SIDE), folder / box_file(stage))
    _export(detector.masks, (sizes.channels, MASK_SIDE, MASK_SIDE), folder / MASKS)


def box_file(stage: int) -> str:
    """Returns the name of a stage's box head."""
    return f"boxes{stage}.onnx"


def compile_trunk(
    exported: Path, out: Path, images: Path, recipe: Recipe, canvas: tuple[int, int], progress: Progress
) -> Manifest:
    """Compiles the trunk in the folder `exported` into the bundle `out`.

    Args:
        images: `.npz` with canvases to calibrate on.

    Raises:
        CheckError: the bundle failed its verification.
    """
    compiled = qvit_deploy.compile(
        str(exported / TRUNK), out, calib=str(images), recipe=recipe, preprocess=preprocess(canvas), progress=progress
    )
    return compiled.bundle.manifest


@dataclass(frozen=True)
class Parts:
    """The parts of a detector in ONNX Runtime."""

    trunk: ModelSession
    boxes: tuple[ModelSession, ...]
    masks: ModelSession

    @classmethod
    def open(cls, trunk: Path, folder: Path, stages: int) -> Parts:
        """Opens a trunk, and the heads in `folder`."""
        boxes = tuple(open_model(folder / box_file(stage)) for stage in range(stages))
        return cls(open_model(trunk), boxes, open_model(folder / MASKS))


def run(session: ModelSession, inputs: Tensor) -> Mapping[str, Tensor]:
    """Returns the outputs of a part by name for [n, ...]."""
    values: Mapping[str, Any] = session.run(Examples({session.inputs[0].name: inputs.numpy()}))
    return {name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}


def _export(module: Trunk | BoxHead | Masks, shape: tuple[int, ...], path: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(2, *shape),), str(path), dynamo=True, input_names=["input"],
            output_names=list(module.outputs), dynamic_shapes=({0: torch.export.Dim("batch")},), optimize=False,
            verbose=False,
        )  # fmt: skip
