"""Exact activation patching: one cell replaced, the rest of the graph run again, the metric read. The ground truth.

Many patches run at once: the base image is repeated, and at every component the repetitions get a different cell each
and go through the rest of the graph (`Executor.run_branches`). What comes before a component is computed once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from qvit_deploy.execute.executor import Branch, Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.patching import cells
from qvit_deploy.patching.components import Component
from qvit_deploy.patching.relp import Direction, float64_array, objective_of, ordered
from qvit_deploy.tasks.task import Metric, Objective, Outputs, examples

Tensor = torch.Tensor


def patch_effects(
    executor: Executor,
    components: Sequence[Component],
    clean: Examples[Tensor],
    corrupt: Examples[Tensor],
    metric: Metric,
    direction: Direction = "denoising",
    at_once: int = 64,
) -> dict[Component, np.ndarray]:
    """Returns component -> the exact change of the metric when each of its cells is patched, float64 [cells].

    Args:
        executor: of the graph alone; rules do not change forward values, but cost time.
        clean, corrupt: one pair, an example each.
        at_once: most patches to run side by side; a graph with a static batch runs that many.

    Raises:
        InputError: the metric names what the model lacks, such as a class.
    """
    static = executor.graph.static_batch
    base, source = ordered(clean, corrupt, direction)
    with torch.no_grad():
        names = dict.fromkeys([*(c.tensor for c in components), *executor.outputs])
        source_values = executor.run(source.cycled(static or 1), fetch=list(names))
        from_source = {c: _first(source_values[c.tensor], static or 1) for c in components}
        counts = {c: cells.count(c, from_source[c], 1) for c in components}
        rows = static or rows_at_once(list(counts.values()), at_once)
        from_source_run = _first_of({name: source_values[name] for name in executor.outputs})
        objective_of(metric, from_source_run, from_source_run, direction)  # what it lacks shows before the patches
        by_tensor: dict[str, list[Component]] = {}
        for component in components:
            by_tensor.setdefault(component.tensor, []).append(component)
        branches = {name: _patches(sharing, from_source, counts, rows) for name, sharing in by_tensor.items()}
        outputs, branched = executor.run_branches(base.cycled(rows), {}, branches)
        objective = objective_of(metric, _first_of(outputs), from_source_run, direction)
        unpatched = objective(_first_of(outputs))
        effects = {}
        for name, sharing in by_tensor.items():
            patched = iter(branched[name])
            for component in sharing:
                chunks = _chunks(counts[component], rows)
                values = torch.cat([_each(objective, next(patched), len(chunk)) for chunk in chunks]) - unpatched
                effects[component] = float64_array(values)
    return {c: effects[c] for c in components}


def _patches(
    components: Sequence[Component], source: Mapping[Component, Tensor], counts: Mapping[Component, int], rows: int
) -> Branch:
    """Returns the patched versions of the tensor that `components` share, each with the next `rows` cells of one
    component taken from `source`."""

    def patches(value: Tensor) -> Iterator[Tensor]:
        for component in components:
            for chunk in _chunks(counts[component], rows):
                yield cells.patched(component, value, source[component], chunk)

    return patches


def rows_at_once(counts: Sequence[int], most: int) -> int:
    """Returns how many repetitions, at most `most`, run the fewest images for components with `counts` cells."""
    most = max(1, min(most, max(counts)))
    return min(range(most, 0, -1), key=lambda rows: rows + sum(-(-count // rows) * rows for count in counts))


def _each(objective: Objective, outputs: Outputs, count: int) -> Tensor:
    """Returns the objective of one pair on each of the first `count` images of `outputs`, [count]."""
    return torch.cat([objective(examples(outputs, slice(i, i + 1))) for i in range(count)])


def _first_of(outputs: Outputs) -> Outputs:
    return examples(outputs, slice(0, 1))


def _chunks(count: int, rows: int) -> list[range]:
    return [range(start, min(start + rows, count)) for start in range(0, count, rows)]


def _first(value: Tensor, batch: int) -> Tensor:
    return value[: value.shape[0] // batch]


def circuit_metric(
    executor: Executor,
    components: Sequence[Component],
    clean: Examples[Tensor],
    corrupt: Examples[Tensor],
    metric: Metric,
) -> Callable[[Sequence[int]], float]:
    """Returns a function (cells that keep their clean activations) -> the metric of the clean run with all others
    corrupted.

    Cells are counted over `components` in their order. The corrupted values are those of the corrupt run; what lies
    between the components is computed as usual (MIB, Mueller et al. 2025, node patching).

    Args:
        clean, corrupt: one pair, an example each.
    """
    static = executor.graph.static_batch or 1
    with torch.no_grad():
        on_clean = _first_of(executor.run(clean.cycled(static)))
        names = dict.fromkeys([*(c.tensor for c in components), *executor.outputs])
        values = executor.run(corrupt.cycled(static), fetch=list(names))
    objective = metric(on_clean, _first_of({name: values[name] for name in executor.outputs}))
    counts = [cells.count(c, values[c.tensor], static) for c in components]
    ends = np.cumsum(counts)

    def evaluate(clean_cells: Sequence[int]) -> float:
        keep = np.zeros(int(ends[-1]), bool)
        keep[list(clean_cells)] = True
        out = {c.tensor: np.flatnonzero(~part) for c, part in zip(components, np.split(keep, ends[:-1]), strict=True)}
        taps = {c.tensor: _mixed(c, values[c.tensor], out[c.tensor].tolist()) for c in components if len(out[c.tensor])}
        with torch.no_grad():
            return float(objective(_first_of(executor.run(clean.cycled(static), taps))))

    return evaluate


def _mixed(component: Component, corrupt: Tensor, corrupted: Sequence[int]) -> Callable[[Tensor], Tensor]:
    def tap(value: Tensor) -> Tensor:
        result = value.clone()
        cells.assign(component, result, corrupt, corrupted)
        return result

    return tap
