"""The relevance of whole tensors, as tests look at it."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.relevance.lrp import propagate
from qvit_deploy.tasks.classify import largest_logit
from qvit_deploy.tasks.task import Objective

Tensor = torch.Tensor


def relevance_at(
    executor: Executor, images: Tensor, names: Iterable[str], objective: Objective = largest_logit
) -> dict[str, tuple[Tensor, Tensor]]:
    """name -> (activation, G), with relevance = activation * G elementwise; arguments as for `propagate`."""
    results: dict[str, tuple[Tensor, Tensor]] = {}
    propagate(executor, Examples.images(images), names, lambda n, a, g: results.update({n: (a, g)}), objective)
    return results
