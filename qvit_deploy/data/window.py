"""Where on a picture the input of a model lies, and what lies at the pixels of another size there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Span(NamedTuple):
    """One axis of a grid against the same axis of a model's maps.

    `seen` is the slice of the grid's pixels whose centres the model sees. The centre of each lies `share` (in [0, 1])
    of the way from the pixel `low` of the map to the pixel `high`, and inside of its pixel `nearest`.
    """

    seen: slice
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    share: NDArray[np.float32]
    nearest: NDArray[np.intp]


@dataclass(frozen=True)
class Window:
    """The part of a picture that a model sees, in shares of the picture's height and width: (0, 0, 1, 1) is all."""

    top: float
    left: float
    bottom: float
    right: float

    def rows(self, pixels: int, cells: int) -> Span:
        """Lays `pixels` rows over the whole picture and `cells` rows over the window."""
        return _span(pixels, cells, self.top, self.bottom)

    def columns(self, pixels: int, cells: int) -> Span:
        """Lays `pixels` columns over the whole picture and `cells` columns over the window."""
        return _span(pixels, cells, self.left, self.right)


WHOLE = Window(0.0, 0.0, 1.0, 1.0)


def _span(pixels: int, cells: int, start: float, stop: float) -> Span:
    """Pixel centres are at half numbers on both sides, as in torch's `interpolate(align_corners=False)`."""
    place = ((np.arange(pixels) + 0.5) / pixels - start) / (stop - start) * cells
    inside = np.flatnonzero((place >= 0) & (place <= cells))
    seen = slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)
    centre = np.clip(place[seen] - 0.5, 0, cells - 1)
    low = np.floor(centre).astype(np.intp)
    nearest = np.minimum(place[seen].astype(np.intp), cells - 1)
    return Span(seen, low, np.minimum(low + 1, cells - 1), (centre - low).astype(np.float32), nearest)
