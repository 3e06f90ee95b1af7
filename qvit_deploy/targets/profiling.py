"""Shared by the profilers of runtimes: the number of profiled runs, and the time of one run."""

from __future__ import annotations

import statistics

WARM_UP, RUNS = 10, 30


def per_run(times: list[float]) -> float:
    """Returns the mean time of one run, in the unit of `times`, the times of all events in `WARM_UP + RUNS` runs.

    The warm-up and the slowest fifth, which other work interrupted, are left out.
    """
    warm = times[len(times) * WARM_UP // (WARM_UP + RUNS) :]
    # Times are integer microseconds, so a median of short ones would be far off.
    undisturbed = sorted(warm)[: max(1, len(warm) * 4 // 5)]
    return statistics.fmean(undisturbed) * len(warm) / RUNS
