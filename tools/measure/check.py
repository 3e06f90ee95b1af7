"""Measures how often `check` is wrong: false alarms without a change, and slowdowns of 5 % that it misses.

Simulated noise first (processes that differ, a machine whose speed drifts, neighbours that come and go), then real runs
on this machine: a model against a copy of itself, and against one with exactly 5 % more layers. Real runs take long, so
many processes are measured once and experiments, each with the default number of processes, are drawn from them.

    python -m tools.measure.check [--trials 400] [--pool 40] [--draws 1000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from qvit_deploy.artifacts.measurement import Measurement, Subject
from qvit_deploy.bench.compare.regression import MAX_SLOWDOWN, reference_workload_ms
from qvit_deploy.bench.compare.stats import Ratio, paired_ratio, ratio
from qvit_deploy.bench.measure import BLOCKS, PROCESSES, File, MeasureOptions, measure
from qvit_deploy.bench.reference_workload import products
from qvit_deploy.cli.console import Bars

SLOWDOWN = 0.05
BLOCK_SECONDS = 0.05


@dataclass(frozen=True)
class Noise:
    """The noise of a simulated run, relative to the time of a run.

    Attributes:
        process: standard deviation between processes of one file (memory layout).
        drift: standard deviation of the machine's speed, an autoregressive process with a time constant of 5 s.
        neighbour: share of the time in which another load adds 20 to 90 % to the time, for about a second.
    """

    name: str
    process: float
    drift: float
    neighbour: float


NOISES = (
    Noise("quiet", 0.005, 0.005, 0.0),
    Noise("usual", 0.01, 0.02, 0.1),
    Noise("loaded", 0.015, 0.03, 0.4),
)


def simulated(random: np.random.Generator, noise: Noise, slowdowns: tuple[float, ...]) -> list[np.ndarray]:
    """Simulates the block medians [processes, blocks] of files timed in turn, each slowed down by its share."""
    sides = len(slowdowns)
    total = sides * PROCESSES * BLOCKS
    decay = np.exp(-BLOCK_SECONDS / 5)
    machine = np.zeros(total)
    speed, busy = random.normal(0, noise.drift), random.random() < noise.neighbour
    for i in range(total):
        speed = decay * speed + random.normal(0, noise.drift * np.sqrt(1 - decay**2))
        change = random.random() < BLOCK_SECONDS * (1 if busy else noise.neighbour / (1 - noise.neighbour))
        busy = busy != change
        machine[i] = np.exp(speed) * (1 + busy * random.uniform(0.2, 0.9))
    blocks = machine.reshape(PROCESSES, BLOCKS, sides)
    swapped = (np.arange(PROCESSES)[:, None] + np.arange(BLOCKS)) % 2 == 1
    medians = []
    for k, slowdown in enumerate(slowdowns):
        runs = random.lognormal(0, 0.03, (PROCESSES, BLOCKS, 5))
        process = random.lognormal(0, noise.process, (PROCESSES, 1))
        shared = np.where(swapped, blocks[..., sides - 1 - k], blocks[..., k])
        medians.append((1 + slowdown) * shared * process * np.median(runs, axis=2))
    return medians


def fails(latency: Ratio) -> bool:
    """Returns the verdict of `check` with its default threshold."""
    return latency.interval[0] > 1 and latency.value - 1 > MAX_SLOWDOWN


def spread(blocks: np.ndarray) -> tuple[float, float]:
    """Returns the relative spread of block times [processes, blocks]: (of processes, of blocks of one process).

    These are standard deviations estimated by the median absolute deviation: a few interrupted blocks do not count.
    """
    medians = np.median(blocks, axis=1)

    def deviation(values: np.ndarray) -> float:
        return float(1.4826 * np.median(np.abs(values / np.median(values) - 1)))

    return deviation(medians), deviation(blocks / medians[:, None])


def add_spread(name: str, apart: np.ndarray, in_turn: np.ndarray, spreads: Table) -> None:
    """Adds the spread of times relative to the reference workload, and of one file's times relative to another's."""
    spreads.add_row(name, *(f"{share:.2%}" for blocks in (apart, in_turn) for share in spread(blocks)))


def simulate(trials: int, table: Table, spreads: Table) -> None:
    """Adds rows for simulated runs."""
    for noise in NOISES:
        random = np.random.default_rng(0)
        many = [simulated(random, noise, (0.0, 0.0)) for _ in range(20)]
        ratios = np.concatenate([one / other for one, other in many])
        add_spread(f"simulated, {noise.name}", ratios, ratios, spreads)
        verdicts: dict[str, list[float]] = {"interleaved": [], "apart, by reference": [], "apart, without": []}
        for slowdown in (0.0, SLOWDOWN):
            failed = np.zeros(len(verdicts))
            for trial in range(trials):
                random = np.random.default_rng(trial)
                old, new = simulated(random, noise, (0.0, slowdown))
                (first, one), (second, other) = (simulated(random, noise, (s, 0.0)) for s in (0.0, slowdown))
                (lone,), (slow,) = (simulated(random, noise, (s,)) for s in (0.0, slowdown))
                failed += [
                    fails(paired_ratio([(old.tolist(), new.tolist())])),
                    fails(ratio([(first / one).tolist()], [(second / other).tolist()])),
                    fails(ratio([lone.tolist()], [slow.tolist()])),
                ]
            for rates, count in zip(verdicts.values(), failed, strict=True):
                rates.append(count / trials)
        for method, rates in verdicts.items():
            table.add_row(f"simulated, {noise.name}", method, *(f"{r:.1%}" for r in rates), str(trials))


def blocks_of(subject: Subject) -> np.ndarray:
    """Returns block medians [processes, blocks], ms, or relative to the reference workload where it was timed."""
    rows = []
    for process in subject.processes:
        blocks = np.array(process.blocks_ms)
        rows.append(blocks if process.reference_ms is None else blocks / process.reference_ms)
    return np.array(rows)


def real(pool: int, count: int, table: Table, spreads: Table) -> None:
    """Adds rows for `count` experiments drawn from `pool` processes on this machine."""
    with tempfile.TemporaryDirectory() as folder, Bars() as bars:
        files = {}
        for name, layers in {"base": 40, "same": 40, "slow": 42}.items():
            files[name] = File(Path(folder) / f"{name}.onnx", {})
            files[name].path.write_bytes(products(layers))
        turns, apart = [], [blocks_of(_measured(files["base"], None, pool, bars))]
        for name in ("same", "slow"):
            measurement = _measured(files[name], files["base"], pool, bars)
            assert measurement.against is not None
            turns.append((blocks_of(measurement.against), blocks_of(measurement)))
            apart.append(blocks_of(_measured(files[name], None, pool, bars)))
    add_spread("real, this machine", apart[0], turns[0][1] / turns[0][0], spreads)
    random = np.random.default_rng(0)
    chosen = [[random.permutation(pool)[:PROCESSES] for _ in range(2)] for _ in range(count)]
    paired = [[fails(paired_ratio([(old[i].tolist(), new[i].tolist())])) for i, _ in chosen] for old, new in turns]
    alone = [[fails(ratio([apart[0][i].tolist()], [new[j].tolist()])) for i, j in chosen] for new in apart[1:]]
    for method, verdicts in (("interleaved", paired), ("apart, by reference", alone)):
        table.add_row("real, this machine", method, *(f"{np.mean(v):.1%}" for v in verdicts), str(count))


def _measured(file: File, against: File | None, pool: int, bars: Bars) -> Measurement:
    measurement = measure(file, against, MeasureOptions(processes=pool), False, bars)
    line = f"{file.path.stem}: p50 {measurement.latency_ms.p50:.3f} ms"
    if measurement.ratio is None:
        line += f", reference workload {reference_workload_ms([measurement]):.3f} ms"
    else:
        low, high = measurement.ratio.interval95
        line += f", {measurement.ratio.p50:.4f} ({low:.4f} to {high:.4f}) of the time of base"
    print(f"{line}, load average {os.getloadavg()[0]:.1f}", flush=True)
    return measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=400, help="simulated runs of each kind; 0: none")
    parser.add_argument("--pool", type=int, default=40, help="real processes of each kind; 0: none")
    parser.add_argument("--draws", type=int, default=1000, help="experiments drawn from them")
    arguments = parser.parse_args()
    title = f"{PROCESSES} processes x {BLOCKS} blocks, threshold {MAX_SLOWDOWN:.0%}"
    table = Table("noise", "measured", "false alarms", f"{SLOWDOWN:.0%} caught", "experiments", title=title)
    columns = ("processes, apart", "blocks, apart", "processes, in turn", "blocks, in turn")
    spreads = Table("noise", *columns, title="how far times lie apart")
    if arguments.trials:
        simulate(arguments.trials, table, spreads)
    if arguments.pool:
        real(arguments.pool, arguments.draws, table, spreads)
    for each in (spreads, table):
        Console(width=120).print(each)


if __name__ == "__main__":
    main()
