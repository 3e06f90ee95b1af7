"""How much an error in each row of an activation matters: which tokens calibration has to get right.

A class token carries the decision in the last blocks while the patches outnumber it 64 to 1 and more, so ranges and
weights fitted to all rows alike are fitted to rows that no longer matter. Errors are therefore weighted by row.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.progress import Advance
from qvit_deploy.relevance.lrp import propagate
from qvit_deploy.relevance.rule_sets import RuleSet
from qvit_deploy.tasks.task import Objective

Tensor = torch.Tensor

FLOOR = 0.2
"""What every row counts on top of its own importance, relative to the mean: rows that do not reach the answer still say
which inputs go together."""


def row_importance(
    graph: Graph,
    names: Iterable[str],
    batches: Iterable[Examples[Tensor]],
    rule_set: RuleSet,
    objective: Objective,
    advance: Advance,
) -> dict[str, Tensor]:
    """Returns tensor name -> weight of the squared error of each of its rows, float32 [rows per image], mean 1.

    A row is what lies along the last axis; the rows of an image are counted in memory order. The weight is the root
    mean square of the coefficients that `rule_set` puts on the row (for `gradient`, the square root of the diagonal of
    the empirical Fisher information), averaged over the images at each position. The square itself is the first-order
    answer, but coefficients are taken where nothing is quantized yet: with noise on everything, rows they call
    unimportant still move the result, and weighting by the square measures worse on held-out images.

    Args:
        names: tensors [batch, ..., channels] that the image reaches.
        objective: the scalar that the coefficients are of (`Task.objective_for`).
        advance: counts images.
    """
    names = tuple(names)
    totals: dict[str, Tensor] = {}
    images = 0

    def add(name: str, activation: Tensor, g: Tensor) -> None:
        power = g.square().mean(-1).reshape(images, -1).sum(0)
        totals[name] = totals[name] + power if name in totals else power

    for batch in batches:
        if len(batch) != images:
            images = len(batch)
            executor = Executor(graph, overrides=rule_set.bind(graph, images).overrides)
        propagate(executor, batch, names, add, rule_set.starting_at(objective))
        advance(images)
    return {name: _weights(total.sqrt().cpu()) for name, total in totals.items()}


def _weights(importance: Tensor) -> Tensor:
    mean = importance.mean()
    if not mean > 0:
        return torch.ones_like(importance)
    return (importance / mean + FLOOR) / (1 + FLOOR)
