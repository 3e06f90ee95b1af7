"""What a target's file may lose against the float model when it runs freely from the image on.

Last bits differ between runtimes, and a value that crosses a rounding boundary moves all that follows. In a classifier
that is little; where a network decides by small differences (which queries are the best, in which order) two files that
compute the same integers from the same inputs may end far apart, each as far from the float model as the other.
"""

from __future__ import annotations

MAX_SQNR_LOSS_DB = 3.0
"""What running freely may cost: noise as large as that of quantization itself."""
FLOAT32_DB = 60.0
"""An SQNR above this is not required: float32 rounding is noise of that size."""


def least_sqnr_db(reference_db: float) -> float:
    """Returns the SQNR in dB that a file needs against the float model where the reference file has `reference_db`."""
    return min(reference_db, FLOAT32_DB) - MAX_SQNR_LOSS_DB
