"""A detector as ONNX files, one for every part: exported, compiled, and opened together."""

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

from qvit_deploy.graph.examples import Examples
from qvit_deploy.targets.runtime import ModelSession
from qvit_deploy.targets.session import open_model
from tools.paper.coco.detector import BOX_SIDE, MASK_SIDE, Architecture, BoxHead, Detector, Masks, Trunk

TRUNK, MASKS = "trunk", "masks"
INPUT = "features"


def box_part(stage: int) -> str:
    """Returns the name of a stage's box head."""
    return f"boxes{stage}"


def parts_of(stages: int) -> tuple[str, ...]:
    """Returns the names of a detector's parts."""
    return (TRUNK, *(box_part(stage) for stage in range(stages)), MASKS)


def float_file(folder: Path, part: str) -> Path:
    """Returns where `export` writes a part."""
    return folder / f"{part}.onnx"


def export(detector: Detector, sizes: Architecture, canvas: tuple[int, int], folder: Path) -> None:
    """Writes the detector's parts into `folder`, each with any batch: the trunk, a box head per stage, the masks."""
    detector.eval()
    _export(detector.trunk, (3, *canvas), float_file(folder, TRUNK))
    for stage, head in enumerate(detector.box_heads):
        _export(head, (sizes.channels, BOX_SIDE, BOX_SIDE), float_file(folder, box_part(stage)))
    _export(detector.masks, (sizes.channels, MASK_SIDE, MASK_SIDE), float_file(folder, MASKS))


@dataclass(frozen=True)
class Parts:
    """The parts of a detector in their runtime, by name."""

    sessions: Mapping[str, ModelSession]

    @classmethod
    def open(cls, files: Mapping[str, Path]) -> Parts:
        """Opens part -> file. Raises InputError."""
        return cls({part: open_model(file) for part, file in files.items()})

    @property
    def stages(self) -> int:
        """How many box heads there are."""
        return len(self.sessions) - 2

    def run(self, part: str, inputs: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of a part by name for [n, ...]."""
        session = self.sessions[part]
        values: Mapping[str, Any] = session.run(Examples({session.inputs[0].name: inputs.numpy()}))
        return {name: torch.from_numpy(np.asarray(value)) for name, value in values.items()}


def _export(module: Trunk | BoxHead | Masks, shape: tuple[int, ...], path: Path) -> None:
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(2, *shape),), str(path), dynamo=True, input_names=[INPUT],
            output_names=list(module.outputs), dynamic_shapes=({0: torch.export.Dim("batch")},), optimize=False,
            verbose=False,
        )  # fmt: skip
