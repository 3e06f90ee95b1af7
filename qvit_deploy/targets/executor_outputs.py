"""Runs the executor for the verification of runtimes, and compares the float model before and after the folds."""

from __future__ import annotations

import numpy as np
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.batches import in_batches
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.task import Task, arrays

FOLD_TOLERANCE = 1e-3
"""Largest allowed difference of the folded float model's logits from the source's, relative to the largest logit."""


def executor_outputs(
    executor: Executor, images: Examples[np.ndarray], static_batch: int | None
) -> dict[str, np.ndarray]:
    """Returns the outputs of the executor's graph for `images` by name, each [n, ...]."""

    def run(chunk: Examples[np.ndarray]) -> list[np.ndarray]:
        return list(arrays(executor.run(chunk.map(torch.from_numpy))).values())

    with torch.no_grad():
        return dict(zip(executor.outputs, in_batches(images, static_batch, run), strict=True))


def fold_error(source: Graph, folded: Graph, images: Examples[np.ndarray], task: Task = CLASSIFY) -> float:
    """Returns the largest difference of two float models' signals (logits) on `images`, relative to the largest value.

    Raises:
        CheckError: it passes `FOLD_TOLERANCE`, so a fold is not the identity it is meant to be.
    """
    outputs = (executor_outputs(Executor(g), images, g.static_batch) for g in (source, folded))
    output, error = next(iter(task.relative_errors(*outputs).items()))
    if error > FOLD_TOLERANCE:
        raise CheckError(
            f"verification: folding scales into the float model moved output {output!r} by {error:.1e} of its "
            "largest value; turn the folds off one by one in a recipe (fold, fold_heads) and report the model"
        )
    return error
