"""Scales that float16 holds exactly."""

from __future__ import annotations

import numpy as np

SMALLEST_NORMAL = 2.0**-14
"""Below it float16 loses digits, and such scales keep float32."""


def half_scale(scale: float) -> float:
    """Returns the nearest float16, or `scale` itself where that is outside of float16's normal range."""
    with np.errstate(over="ignore"):
        rounded = float(np.float16(scale))
    return rounded if SMALLEST_NORMAL <= rounded < float("inf") else scale
