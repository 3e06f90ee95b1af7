"""What profilers of runtimes share: how many runs they see, and the time of one run from those of all."""

from __future__ import annotations

import statistics

WARM_UP, RUNS = 10, 30


def per_run(times: list[float]) -> float:
    """Mean of one run of `WARM_UP + RUNS`: without the warm-up and the slowest fifth, which other work interrupted."""
    found = times[len(times) * WARM_UP // (WARM_UP + RUNS) :]
    # Times are whole microseconds, so a median of short ones would be far off.
    kept = sorted(found)[: max(1, len(found) * 4 // 5)]
    return statistics.fmean(kept) * len(found) / RUNS
