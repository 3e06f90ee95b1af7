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

    Raises:
        InputError: no output says anything about the image.
    """

    def sample() -> Iterator[Outputs]:
        executor = Executor(graph)
        for batch in batches:
            with torch.no_grad():
                outputs = executor.run(batch)
            yield outputs

    return task.objective_for(sample(), seed)
