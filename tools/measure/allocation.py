"""Measures how long the exact allocation takes: 200 sites of a ViT's sizes, 9 and 49 choices each, in CPU seconds.

python -m tools.measure.allocation [--sites 200] [--repeats 5]
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import numpy as np
from rich.console import Console
from rich.table import Table

from qvit_deploy.allocate.cost import Budget, Option, SiteCost
from qvit_deploy.allocate.solve import solve
from qvit_deploy.formats.integer import Int

WIDTHS = {"9 (4, 6, 8)": (4, 6, 8), "49 (2 to 8)": tuple(range(2, 9))}
BUDGETS = {
    "mean bits 5": Budget(mean_w_bits=5, mean_a_bits=5),
    "size 55 %": Budget(max_weight_bytes=0.55),
    "BitOps 40 %": Budget(max_bitops=0.40),
    "latency 75 %": Budget(max_latency_ms=0.75),
    "size 60 % and latency 80 %": Budget(max_weight_bytes=0.60, max_latency_ms=0.80),
}
"""Shares are of the cost at 8 bits."""

Losses = dict[str, dict[Option, float]]


def network(count: int, widths: tuple[int, ...], seed: int) -> tuple[list[SiteCost], Losses]:
    """Makes `count` sites of a ViT-S, with losses that fall by 4x per bit and differ by 1,000x, and noisy times."""
    rng = np.random.default_rng(seed)
    options = [Option(Int(w), Int(a)) for w, a in product(widths, repeat=2)]
    sites, loss = [], {}
    for i in range(count):
        rows, columns = ((384, 1152), (384, 384), (384, 1536), (1536, 384))[i % 4]
        macs = rows * columns * 257
        times = {o: round(macs * (0.4 + 0.1 * max(o.w_bits, o.a_bits)) / 1e3 * rng.normal(1, 0.02)) for o in options}
        sites.append(SiteCost(f"s{i}", rows * columns, macs, rows * 257, latency_ns=times))
        weight, activation = 10 ** rng.uniform(-3, 0, 2)
        loss[f"s{i}"] = {o: float(weight * 4.0**-o.w_bits + activation * 4.0**-o.a_bits) for o in options}
    return sites, loss


def scaled(budget: Budget, sites: list[SiteCost]) -> Budget:
    """Converts shares of the cost at 8 bits into the units of `Budget`."""
    full = {
        "max_weight_bytes": float(sum(s.params for s in sites)),
        "max_bitops": 64.0 * sum(s.macs for s in sites),
        "max_latency_ms": sum(s.latency_ns[Option(Int(8), Int(8))] for s in sites) / 1e6,
    }
    return Budget(**{n: None if b is None else b * full.get(n, 1.0) for n, b in vars(budget).items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sites", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5, help="networks solved for each line")
    arguments = parser.parse_args()
    table = Table("choices", "budget", "median s", "slowest s")
    for choices, widths in WIDTHS.items():
        for name, budget in BUDGETS.items():
            seconds = []
            for seed in range(arguments.repeats):
                sites, loss = network(arguments.sites, widths, seed)
                start = time.process_time()
                solve(sites, {s.name: list(loss[s.name]) for s in sites}, loss, scaled(budget, sites))
                seconds.append(time.process_time() - start)
            table.add_row(choices, name, f"{np.median(seconds):.2f}", f"{max(seconds):.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
