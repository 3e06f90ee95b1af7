"""Which images of DATA a compile is fitted to, and which others its quality is measured on.

What a model is fitted to flatters it: with 16 images SQNR was 37 dB on those and 23 dB on others of the same folder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.data.example_set import ExampleSet

Draw = Callable[[int], tuple[ExampleSet, NDArray[np.intp]]]
"""Limit -> (all that DATA lists, the indices of those drawn, in the order in which they were drawn): the first n of
them are what a limit of n draws."""

HELD_OUT_IMAGES = 64
"""Images that quality is measured on: the standard error of an agreement of 95 % is 3 points then."""

LEAST_HELD_OUT = 4
"""Where DATA has fewer images beside those wanted for calibration, a share of all is kept from calibration."""

SHARED_FROM = 16
"""Images that DATA must have for a share to be kept apart: calibration needs fewer of them still less."""

SHARE = 4
"""One image of so many is kept apart."""


def open_apart(draw: Draw, fitted: int, held_out: int) -> tuple[ExampleSet, ExampleSet | None]:
    """Draws (the examples to calibrate on, others to measure on) from DATA, each decoded once; None where there are
    none.

    The first are those that are drawn with a limit of `fitted`, unless fewer than `LEAST_HELD_OUT` are left beside
    them: then a quarter of all, at least `LEAST_HELD_OUT`, is kept from calibration, if there are at least
    `SHARED_FROM`. With fewer than that all are calibrated on, up to `fitted`.

    Args:
        draw: draws from DATA.
        fitted: examples wanted for calibration.
        held_out: examples to measure on, at most; at least `HELD_OUT_IMAGES`.

    Raises:
        InputError: DATA cannot be used.
    """
    examples, drawn = draw(fitted + held_out)
    count = fitted_count(len(drawn), fitted)
    first, rest = (examples.take(np.sort(part)) for part in (drawn[:count], drawn[count:]))
    return first, rest if len(rest) else None


def fitted_count(available: int, wanted: int) -> int:
    """Returns how many of `available` images to calibrate on where `wanted` are asked for."""
    if available - wanted >= LEAST_HELD_OUT or available < SHARED_FROM:
        return min(available, wanted)
    return available - max(LEAST_HELD_OUT, min(HELD_OUT_IMAGES, available // SHARE))
