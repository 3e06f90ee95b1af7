"""Exact activation patching: one cell replaced, the rest of the graph run again, the metric read. The ground truth.

Many patches run at once: the base image is repeated, and at every component the repetitions get a different cell each
and go through the rest of the graph (`Executor.forked_logits`). What comes before a component is computed once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from qvit_deploy.execute.executor import Executor, Fork
from qvit_deploy.patching import cells
from qvit_deploy.patching.components import Component
from qvit_deploy.patching.relp import Direction, objective_of, ordered
from qvit_deploy.tasks.objective import Metric

Tensor = torch.Tensor


def patch_effects(
    executor: Executor,
    components: Sequence[Component],
    clean: Tensor,
    corrupt: Tensor,
    metric: Metric,
    direction: Direction = "denoising",
    at_once: int = 64,
    progress: Callable[[int], None] | None = None,
) -> dict[Component, np.ndarray]:
    """Component -> the exact change of the metric when each of its cells is patched, float64 [cells].

    Args:
        executor: of the graph alone; rules do not change forward values, but cost time.
        clean, corrupt: one pair, float32 [1, C, H, W] each.
        at_once: most patches to run side by side; a graph with a static batch runs that many.
        progress: called with the number of patches done.

    Raises:
        InputError: the metric names a class that the model lacks.
    """
    static = executor.graph.static_batch
    base, source = ordered(clean, corrupt, direction)
    with torch.no_grad():
        output = executor.graph.outputs[0].name or ""
        names = dict.fromkeys([*(c.tensor for c in components), output])
        source_values = executor.run(_repeated(source, static or 1), fetch=list(names))
        from_source = {c: _first(source_values[c.tensor], static or 1) for c in components}
        counts = {c: cells.count(c, from_source[c], 1) for c in components}
        rows = static or rows_at_once(list(counts.values()), at_once)
        source_logits = source_values[output][:1]
        objective_of(metric, source_logits, source_logits, direction)  # a class out of range shows before the patches
        by_tensor: dict[str, list[Component]] = {}
        for component in components:
            by_tensor.setdefault(component.tensor, []).append(component)

        def fork(name: str) -> Fork:
            def patches(value: Tensor) -> Iterator[Tensor]:
                for component in by_tensor[name]:
                    for chunk in _chunks(counts[component], rows):
                        yield cells.patched(component, value, from_source[component], chunk)
                        if progress is not None:
                            progress(len(chunk))

            return patches

        base_logits, forked = executor.forked_logits(
            _repeated(base, rows), {}, {name: fork(name) for name in by_tensor}
        )
        objective = objective_of(metric, base_logits[:1], source_logits, direction)
        unpatched = objective(base_logits[:1])
        effects = {}
        for name, sharing in by_tensor.items():
            logits = iter(forked[name])
            for component in sharing:
                parts = [next(logits)[: len(chunk)] for chunk in _chunks(counts[component], rows)]
                values = torch.cat([_each(objective, part) for part in parts]) - unpatched
                effects[component] = values.cpu().double().numpy()
    return {c: effects[c] for c in components}


def rows_at_once(counts: Sequence[int], most: int) -> int:
    """How many repetitions, at most `most`, run the fewest images for components with `counts` cells."""
    most = max(1, min(most, max(counts)))
    return min(range(most, 0, -1), key=lambda rows: rows + sum(-(-count // rows) * rows for count in counts))


def _each(objective: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """The objective of one pair on each row of `logits`."""
    return torch.cat([objective(row[None]) for row in logits])


def _chunks(count: int, rows: int) -> list[range]:
    return [range(start, min(start + rows, count)) for start in range(0, count, rows)]


def _repeated(image: Tensor, rows: int) -> Tensor:
    return image.expand(rows, *image.shape[1:])


def _first(value: Tensor, batch: int) -> Tensor:
    return value[: value.shape[0] // batch]


def circuit_metric(
    executor: Executor,
    components: Sequence[Component],
    clean: Tensor,
    corrupt: Tensor,
    metric: Metric,
) -> Callable[[Sequence[int]], float]:
    """A function (cells that keep their clean activations) -> the metric of the clean run with all others corrupted.

    Cells are counted over `components` in their order. The corrupted values are those of the corrupt run; what lies
    between the components is computed as usual (MIB, Mueller et al. 2025, node patching).

    Args:
        clean, corrupt: one pair, float32 [1, C, H, W] each.
    """
    static = executor.graph.static_batch or 1
    with torch.no_grad():
        clean_logits = executor.logits(_repeated(clean, static))[:1]
        output = executor.graph.outputs[0].name or ""
        names = dict.fromkeys([*(c.tensor for c in components), output])
        values = executor.run(_repeated(corrupt, static), fetch=list(names))
    objective = metric(clean_logits, values[output][:1])
    counts = [cells.count(c, values[c.tensor], static) for c in components]
    ends = np.cumsum(counts)

    def evaluate(kept: Sequence[int]) -> float:
        keep = np.zeros(int(ends[-1]), bool)
        keep[list(kept)] = True
        out = {c.tensor: np.flatnonzero(~part) for c, part in zip(components, np.split(keep, ends[:-1]), strict=True)}
        taps = {c.tensor: _mixed(c, values[c.tensor], out[c.tensor].tolist()) for c in components if len(out[c.tensor])}
        with torch.no_grad():
            return float(objective(executor.logits(_repeated(clean, static), taps)[:1]))

    return evaluate


def _mixed(component: Component, corrupt: Tensor, corrupted: Sequence[int]) -> Callable[[Tensor], Tensor]:
    def tap(value: Tensor) -> Tensor:
        result = value.clone()
        cells.assign(component, result, corrupt, corrupted)
        return result

    return tap
