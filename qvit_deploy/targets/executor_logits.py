"""Logits of the executor, which every runtime is held against, and of the float model before and after the folds."""

from __future__ import annotations

import numpy as np
import torch

from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.graph import Graph
from qvit_deploy.targets.batches import in_batches

FOLD_TOLERANCE = 1e-3
"""Largest allowed difference of the folded float model's logits from the source's, relative to the largest logit."""


def executor_logits(executor: Executor, images: np.ndarray, static_batch: int | None) -> np.ndarray:
    """The logits float32 [n, classes] of `images` float32 [n, C, H, W], `static_batch` at a time where it is fixed."""

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        return [executor.logits(torch.from_numpy(chunk)).cpu().numpy()]

    with torch.no_grad():
        return in_batches(images, static_batch, run)[0]


def fold_error(source: Graph, folded: Graph, images: np.ndarray) -> float:
    """Largest difference of the two float models' logits on `images`, relative to the largest logit.

    Raises:
        CheckError: it passes `FOLD_TOLERANCE`, so a fold is not the identity it is meant to be.
    """
    logits, found = (executor_logits(Executor(g), images, g.static_batch) for g in (source, folded))
    error = float(np.abs(found - logits).max() / max(np.abs(logits).max(), 1e-12))
    if error > FOLD_TOLERANCE:
        raise CheckError(
            f"verification: folding scales into the float model moved its logits by {error:.1e} of the largest; turn "
            "the folds off one by one in a recipe (fold, fold_heads) and report the model"
        )
    return error
