"""Intervals by bootstrap, over processes first: iterations of one process share its memory layout and its minute.

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
"""Checking the same files twice gives the same answer."""

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
    """(mean and quantiles of all samples, their 95 % intervals), nanoseconds.

    Args:
        units: one sketch per process; with a single one there is nothing to resample and the interval is the value.
    """
    whole = Sketch()
    for unit in units:
        whole.merge(unit)
    values = [whole.mean, *(whole.quantile(q) for q in quantiles)]
    if len(units) < 2:
        return values, [(v, v) for v in values]
    used, _ = whole.bins()
    counts = np.zeros((len(units), len(used)))
    for row, unit in zip(counts, units, strict=True):
        own, many = unit.bins()
        row[np.searchsorted(used, own)] = many
    sizes = counts.sum(1)
    means = np.array([unit.mean for unit in units])
    chosen = np.random.default_rng(SEED).multinomial(len(units), [1 / len(units)] * len(units), RESAMPLES // 4)
    resampled = chosen @ counts
    drawn = [(chosen @ (sizes * means)) / (chosen @ sizes), *(quantile_of_bins(used, resampled, q) for q in quantiles)]
    return values, [_interval(d, len(units)) for d in drawn]


def ratio(baseline: Sequence[Blocks], candidate: Sequence[Blocks]) -> Ratio:
    """Ratio of the median block of `candidate` to that of `baseline`, measured apart.

    The levels resampled are files (where a side has several), processes, blocks. A side of one process rests on its
    blocks alone, so the interval knows nothing of how processes differ.

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
    """Median ratio of neighbouring blocks, candidate over baseline, of runs that took them in turn.

    A change of the machine's speed that lasts longer than a block meets both sides and drops out.

    Args:
        files: (baseline, candidate) of each run, blocks of equal index measured one after the other.
    """
    pairs = [[np.asarray(c) / np.asarray(b) for b, c in zip(*file, strict=True)] for file in files]
    value = float(np.median(np.concatenate([p for f in pairs for p in f])))
    units = _units(pairs)
    return Ratio(value, _interval(_medians(pairs, np.random.default_rng(SEED)), units), units, interleaved=True)


def _units(files: Sequence[Sequence[Sequence[float] | np.ndarray]]) -> int:
    """How many independent units the top level that has several has."""
    return next((n for n in (len(files), len(files[0]), len(files[0][0])) if n > 1), 1)


def _medians(files: Sequence[Sequence[Sequence[float] | np.ndarray]], random: np.random.Generator) -> np.ndarray:
    """Median over all blocks of resampled files of resampled processes of resampled blocks, [RESAMPLES]."""
    levels = _Levels.of(files)
    # In portions: the drawn blocks of all resamples at once would be gigabytes for long runs.
    portion = max(1, min(RESAMPLES, 20_000_000 // levels.drawn))
    starts = range(0, RESAMPLES, portion)
    return np.concatenate([levels.medians(min(portion, RESAMPLES - start), random) for start in starts])


@dataclass(frozen=True, eq=False)
class _Levels:
    """Times of blocks in processes in files, as arrays to index.

    Attributes:
        blocks: float64 [processes of all files, blocks of the longest], what is missing filled with zeros.
        lengths: [processes of all files], how many blocks each has.
        first: [files + 1], the row in which the processes of each file begin.
        processes: of the file with the most.
    """

    blocks: np.ndarray
    lengths: np.ndarray
    first: np.ndarray
    processes: int

    @classmethod
    def of(cls, files: Sequence[Sequence[Sequence[float] | np.ndarray]]) -> _Levels:
        rows = [np.asarray(process, float) for file in files for process in file]
        lengths = np.array([len(row) for row in rows])
        blocks = np.zeros((len(rows), int(lengths.max())))
        for padded, row in zip(blocks, rows, strict=True):
            padded[: len(row)] = row
        counts = [len(file) for file in files]
        return cls(blocks, lengths, np.cumsum([0, *counts]), max(counts))

    @property
    def drawn(self) -> int:
        """Blocks that one resample draws."""
        return (len(self.first) - 1) * self.processes * self.blocks.shape[1]

    def medians(self, resamples: int, random: np.random.Generator) -> np.ndarray:
        """Draws files, of each of them processes, of each of those blocks, all with replacement; [resamples]."""
        files = len(self.first) - 1
        file = random.integers(0, files, (resamples, files, 1))
        counts = self.first[file + 1] - self.first[file]
        process = self.first[file] + _below(counts, (resamples, files, self.processes), random)
        lengths = self.lengths[process][..., None]
        block = _below(lengths, (*process.shape, self.blocks.shape[1]), random)
        return np.asarray(np.median(self.blocks[process[..., None], block].reshape(resamples, -1), axis=1))


def _below(counts: np.ndarray, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Uniform integers of `shape` from 0 up to `counts`, which broadcasts to it."""
    return (random.random(shape) * counts).astype(np.int64)


def _interval(drawn: np.ndarray, units: int) -> Interval:
    """The percentile interval of bootstrap draws, widened for few units (Hesterberg's expanded percentiles)."""
    tail = (1 - CONFIDENCE) / 2
    if units > 1:
        tail = NormalDist().cdf(-math.sqrt(units / (units - 1)) * _student(1 - tail, units - 1))
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return float(low), float(high)


def _student(p: float, freedom: int) -> float:
    """Quantile p of Student's t, by Abramowitz and Stegun 26.7.5: within 1 % from 3 degrees of freedom on. Below, it is
    too small, but there the tail it leads to holds fewer draws than one anyway."""
    z = NormalDist().inv_cdf(p)
    return z + sum(
        (
            (z**3 + z) / (4 * freedom),
            (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4),
        )
    )
