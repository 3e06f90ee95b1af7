"""Whether the estimates of a layer's cells add up to what is there to be explained.

Replacing all of the residual stream in front of a block turns the base run into the source run, so its true effect is
the whole difference of the metric: estimates of the stream's cells that add up to it are the right size together, and
their sum divided by it is their completeness. The cells are estimated one at a time, so the sum may miss it even where
each cell is right; yet in the demo models it tells streams of good estimates from bad ones. What one attention or MLP
writes has no such known sum, but hardly carries the decision several times over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

FACTOR = 2.0
"""From `tools/measure/completeness.py`: a stream's estimates that add up to more than twice the difference, or to one
of the other sign, have a larger median error against exact patching than a map of zeros (1); within the factor it is
smaller, and in between about 1."""

DRIFT_ERROR = 0.5
"""Share of a quantized model's drift that the sum of the sites' effects may miss."""


def completeness(effects: ArrayLike, difference: float) -> float | None:
    """Returns the sum of the estimates of a layer's cells over the true `difference` of the metric; None where that is
    0.

    Args:
        effects: [cells], change of the metric.
        difference: of the metric between source and base run.
    """
    return float(np.sum(np.asarray(effects, np.float64)) / difference) if difference else None


def is_beyond(kind: str, value: float) -> bool:
    """Tells whether the completeness of a component of that kind says that its estimates have the wrong size: outside
    [1 / FACTOR, FACTOR] for the residual stream, larger in magnitude than FACTOR for the rest."""
    return abs(value) > FACTOR or (kind == "residual" and value < 1 / FACTOR)


def misses(slope: float | None, error: float | None) -> bool:
    """Tells whether a sum of effects with this regression slope on the true drift, and this normalized error, says that
    the effects have the wrong size. None is a drift of zero, which has no size."""
    if slope is None or error is None:
        return False
    return not 1 / FACTOR <= slope <= FACTOR or error > DRIFT_ERROR
