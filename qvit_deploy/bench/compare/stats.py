"""Computes confidence intervals by bootstrap over processes first, because iterations of one process share its memory
layout and its minute.

Sources: Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013 (levels of repetition: processes
count, iterations hardly do); Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8
(resampling of nested data); Hesterberg, "What teachers should know about the bootstrap", The American Statistician
69(4), 2015 (percentile intervals widened for few units).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from qvit_deploy.bench.compare.sketch import Sketch, quantile_of_bins

CONFIDENCE = 0.95
RESAMPLES = 4000
SEED = 0
"""Of the bootstrap's random numbers: checking the same files twice gives the same answer."""

Interval = tuple[float, float]
Blocks = Sequence[Sequence[float]]
"""[processes][blocks]: the median time of each block of consecutive iterations."""


@dataclass(frozen=True)
class Ratio:
    """Candidate time over baseline time: above 1 is slower.

    Attributes:
        value: the ratio of medians.
        interval: 95 %, by hierarchical bootstrap.
        units: independent units of the top level that the interval rests on (processes, or files).
        interleaved: both sides were measured in the same processes, block by block.
    """

    value: float
    interval: Interval
    units: int
    interleaved: bool


def summary(units: Sequence[Sketch], quantiles: Sequence[float]) -> tuple[list[float], list[Interval]]:
    """Returns (mean and quantiles of all samples, their 95 % intervals), nanoseconds.

    Args:
        units: one sketch per process; with a single one there is nothing to resample and the interval is the value.
    """
    pooled = Sketch()
    for unit in units:
        pooled.merge(unit)
    values = [pooled.mean, *(pooled.quantile(q) for q in quantiles)]
    if len(units) < 2:
        return values, [(v, v) for v in values]
    used, _ = pooled.bins()
    counts = np.zeros((len(units), len(used)))
    for row, unit in zip(counts, units, strict=True):
        unit_bins, unit_counts = unit.bins()
        row[np.searchsorted(used, unit_bins)] = unit_counts
    sizes = counts.sum(1)
    means = np.array([unit.mean for unit in units])
    chosen = np.random.default_rng(SEED).multinomial(len(units), [1 / len(units)] * len(units), RESAMPLES // 4)
    resampled = chosen @ counts
    drawn = [(chosen @ (sizes * means)) / (chosen @ sizes), *(quantile_of_bins(used, resampled, q) for q in quantiles)]
    return values, [_interval(d, len(units)) for d in drawn]


def ratio(baseline: Sequence[Blocks], candidate: Sequence[Blocks]) -> Ratio:
    """Returns the ratio of the median block of `candidate` to that of `baseline`, which were measured apart.

    Files (where a side has several), processes and blocks are resampled, in this order. A side of one process rests on
    its blocks alone, so its interval leaves out how processes differ.

    Args:
        baseline, candidate: files of each side; any numbers of processes and blocks.
    """
    random = np.random.default_rng(SEED)
    drawn = [_medians(side, random) for side in (baseline, candidate)]
    values = [
        float(np.median(np.concatenate([np.asarray(p) for f in side for p in f]))) for side in (baseline, candidate)
    ]
    units = min(_units(baseline), _units(candidate))
    return Ratio(values[1] / values[0], _interval(drawn[1] / drawn[0], units), units, interleaved=False)


def paired_ratio(files: Sequence[tuple[Blocks, Blocks]]) -> Ratio:
    """Returns the median ratio of neighbouring blocks, candidate over baseline, of runs that took them in turn.

    A change of the machine's speed that lasts longer than a block affects both sides and cancels.

    Args:
        files: (baseline, candidate) of each run, blocks of equal index measured one after the other.
    """
    pairs = [[np.asarray(c) / np.asarray(b) for b, c in zip(*file, strict=True)] for file in files]
    value = float(np.median(np.concatenate([p for f in pairs for p in f])))
    units = _units(pairs)
    return Ratio(value, _interval(_medians(pairs, np.random.default_rng(SEED)), units), units, interleaved=True)


def _units(files: Sequence[Sequence[Sequence[float] | np.ndarray]]) -> int:
    """Returns the number of units at the highest level (files, processes, blocks) that has more than one."""
    return next((n for n in (len(files), len(files[0]), len(files[0][0])) if n > 1), 1)


def _medians(files: Sequence[Sequence[Sequence[float] | np.ndarray]], random: np.random.Generator) -> np.ndarray:
    """Returns the medians over all blocks of resampled files, of resampled processes, of resampled blocks: [RESAMPLES].

    Every draw has as many files as there are, as many processes of each as the largest file has, and as many blocks of
    each as the longest process has, all with replacement.
    """
    # The processes of all files as rows of one matrix, padded with zeros that are never drawn.
    processes = [np.asarray(p, float) for f in files for p in f]
    block_counts = np.array([len(p) for p in processes])
    max_blocks = int(block_counts.max())
    blocks = np.zeros((len(processes), max_blocks))
    for padded, process in zip(blocks, processes, strict=True):
        padded[: len(process)] = process
    process_counts = np.array([len(f) for f in files])
    first_process = np.cumsum(process_counts) - process_counts
    max_processes = int(process_counts.max())
    medians = []
    # In chunks: [resamples, files, processes, blocks] numbers at once would be gigabytes for long runs.
    chunk = max(1, min(RESAMPLES, 20_000_000 // (len(files) * max_processes * max_blocks)))
    for start in range(0, RESAMPLES, chunk):
        draws = min(chunk, RESAMPLES - start)
        file = random.integers(0, len(files), (draws, len(files), 1))
        within_file = (random.random((draws, len(files), max_processes)) * process_counts[file]).astype(np.int64)
        row = first_process[file] + within_file
        column = (random.random((*row.shape, max_blocks)) * block_counts[row][..., None]).astype(np.int64)
        medians.append(np.median(blocks[row[..., None], column].reshape(draws, -1), axis=1))
    return np.concatenate(medians)


def _interval(drawn: np.ndarray, units: int) -> Interval:
    """Returns the percentile interval of bootstrap draws, widened for few units (Hesterberg's expanded percentiles)."""
    tail = (1 - CONFIDENCE) / 2
    if units > 1:
        tail = NormalDist().cdf(-math.sqrt(units / (units - 1)) * _student(1 - tail, units - 1))
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def _student(p: float, freedom: int) -> float:
    """Returns the quantile p of Student's t, by Abramowitz and Stegun 26.7.5.

    It is within 1 % from 3 degrees of freedom on. Below it is too small, but there the tail it leads to holds fewer
    draws than one anyway.
    """
    z = NormalDist().inv_cdf(p)
    return z + sum(
        (
            (z**3 + z) / (4 * freedom),
            (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4),
        )
    )
