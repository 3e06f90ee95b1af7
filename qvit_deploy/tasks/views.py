"""What a person would rather look at than read of an image's outputs: a map of classes, a plane, boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from qvit_deploy.tasks.scores.detections import Detections


@dataclass(frozen=True, eq=False)
class ClassMap:
    """A class for every pixel, integers [h, w]."""

    classes: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Plane:
    """A number for every pixel, floats [h, w]."""

    values: NDArray[Any]


View: TypeAlias = ClassMap | Plane | Detections
"""What one image's outputs look like."""
