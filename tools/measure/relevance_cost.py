"""Measures what relevance costs, in forward passes of the same executor: LRP by rule set, and RelP on a pair.

The model is DINOv2 ViT-S/14 at 112 x 112 with random weights (time does not depend on them), with one image or pair at
a time, all timed in turn in one process; printed are medians of ratios to neighbouring forward passes. RelP is also
compared with its bare passes: two forward and one backward pass without taps, rules or sums.

    python -m tools.measure.relevance_cost [--rounds 30] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend import load_model
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.patching.components import find_components
from qvit_deploy.patching.relp import attribute
from qvit_deploy.relevance.lrp import propagate
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.tasks.classify import CLASSIFY, largest_logit, logit_difference

MODEL = "timm:vit_small_patch14_dinov2?img_size=112&num_classes=10"


def read(_: str, activation: torch.Tensor, g: torch.Tensor) -> None:
    """Computes what a score reads of a tensor."""
    (activation * g).abs().sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    graph = load_model(MODEL).graph
    sites, components = find_sites(graph), find_components(graph)
    inputs = sorted({n for s in sites for n in (s.input, s.second) if n is not None})
    image, other = torch.randn(2, 1, *graph.interface.image_size)
    plain, metric = Executor(graph), CLASSIFY.parse_metric("logit-diff:0,1")
    objective = logit_difference(torch.tensor([0]), torch.tensor([1]))

    def forward() -> None:
        with torch.no_grad():
            plain.run(image)

    def bare() -> None:
        forward()
        objective(plain.run(image.clone().requires_grad_())).sum().backward()

    tasks: dict[str, Callable[[], object]] = {"two forward and one backward pass, bare": bare}
    for name, rule_set in RULE_SETS.items():
        executor = Executor(graph, overrides=rule_set.bind(graph, 1).overrides)
        start = rule_set.starting_at(largest_logit)
        tasks[f"LRP of all sites, {name}"] = lambda e=executor, s=start: propagate(  # type: ignore[misc]
            e, Examples.images(image), inputs, read, s
        )
        if name != "deep-taylor":
            tasks[f"RelP of all components, {name}"] = lambda e=executor, r=rule_set: attribute(  # type: ignore[misc]
                e, r, components, Examples.images(image), Examples.images(other), metric, CLASSIFY
            )

    seconds: dict[str, list[float]] = {name: [] for name in ("forward", *tasks)}
    for _ in range(arguments.rounds + 3):
        for name, task in {"forward": forward, **tasks}.items():
            begin = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - begin)
    warm = {name: np.array(values[3:]) for name, values in seconds.items()}  # without the rounds that warm caches up
    table = Table("task", "forward passes", "of the bare passes", "ms")
    for name in tasks:
        passes = np.median(warm[name] / warm["forward"])
        share = np.median(warm[name] / warm["two forward and one backward pass, bare"])
        table.add_row(name, f"{passes:.2f}", f"{share:.2f}", f"{1e3 * np.median(warm[name]):.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
