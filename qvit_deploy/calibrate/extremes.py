"""Finds the largest magnitude of every tensor of a graph, which decides whether float16 can hold it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from qvit_deploy.execute.executor import Executor, Tap
from qvit_deploy.graph.examples import Examples
from qvit_deploy.progress import Advance

Tensor = torch.Tensor


def tensor_extremes(executor: Executor, batches: Iterable[Examples[Tensor]], advance: Advance) -> dict[str, float]:
    """Returns, by tensor name, the largest absolute value over `batches` of every floating-point tensor of the graph.

    The value is infinity where a tensor holds infinities or NaN.

    Args:
    """
    names = [v.name for node in executor.graph.nodes() for v in node.outputs if v.name]
    largest: dict[str, float] = {}

    def tap(name: str) -> Tap:
        def measure(x: Tensor) -> None:
            if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel():
                return
            magnitude = float(x.abs().max())
            largest[name] = max(largest.get(name, 0.0), float("inf") if math.isnan(magnitude) else magnitude)

        return measure

    taps = {name: tap(name) for name in [*(v.name or "" for v in executor.graph.inputs), *names]}
    with torch.no_grad():
        for batch in batches:
            executor.run(batch, taps=taps)
            advance(len(batch))
    return largest
