"""The objective that a task gives for a model, from the model's outputs on the images that will be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.tasks.task import Objective, Outputs, Task


def objective_on(graph: Graph, batches: Iterable[Examples[Tensor]], task: Task, seed: int) -> Objective:
    """Returns what a backward pass through `graph` starts from: at most one forward pass of `batches`.

    An output without a batch axis counts as that of every image.

    Raises:
        InputError: no output says anything about the image.
    """
    without_batch: set[str] = set()

    def by_image(outputs: Outputs) -> Outputs:
        size = next((len(value) for name, value in outputs.items() if name not in without_batch), 1)
        return {n: v.expand(size, *v.shape) if n in without_batch else v for n, v in outputs.items()}

    def sample() -> Iterator[Outputs]:
        executor = Executor(graph)
        for batch in batches:
            with torch.no_grad():
                outputs = executor.run(batch)
            without_batch.update(n for n, v in outputs.items() if v.ndim == 0 or len(v) != len(batch))
            yield by_image(outputs)

    objective = task.objective_for(sample(), seed)
    return lambda outputs: objective(by_image(outputs))
