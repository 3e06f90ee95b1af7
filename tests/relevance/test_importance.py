from __future__ import annotations

import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.relevance.importance import FLOOR, row_importance
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.tasks.classify import largest_logit
from tests.support.examples import image_batches
from tests.support.graphs.relevance_graphs import vit


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def importance(graph: Graph, rules: str, count: int = 4) -> dict[str, torch.Tensor]:
    names = {s.input for s in find_sites(graph) if s.kind == "linear" and s.role != "image"}
    return row_importance(
        graph, names, image_batches(images(count), 2), RULE_SETS[rules], largest_logit, lambda _: None
    )


def test_every_tensor_has_a_weight_for_each_of_its_rows_with_mean_one() -> None:
    rows = importance(vit(), "relp")
    for name, weights in rows.items():
        assert len(weights) == (1 if name == "pooled" else 5)
        assert torch.isfinite(weights).all() and (weights > 0).all()
        torch.testing.assert_close(weights.mean(), torch.tensor(1.0))


def test_behind_the_last_attention_only_the_class_token_counts() -> None:
    graph = vit()
    last = next(s.input for s in find_sites(graph) if s.name == "blocks.1.fc2")
    weights = importance(graph, "gradient")[last]
    assert weights[0] > 4
    torch.testing.assert_close(weights[1:], torch.full((4,), FLOOR / (1 + FLOOR)))


def test_gradients_are_the_ones_autograd_finds() -> None:
    graph = vit()
    name = next(s.input for s in find_sites(graph) if s.name == "blocks.1.fc1")
    activations: list[torch.Tensor] = []
    with torch.enable_grad():
        logits = Executor(graph).run(
            Examples.images(images(2).requires_grad_()), {name: lambda x: activations.append(x)}
        )["logits"]
        (g,) = torch.autograd.grad(logits.amax(1).sum(), activations)
    expected = g.square().mean(-1).sum(0).sqrt()
    weights = row_importance(
        graph, [name], [Examples.images(images(2))], RULE_SETS["gradient"], largest_logit, lambda _: None
    )[name]
    torch.testing.assert_close(weights, (expected / expected.mean() + FLOOR) / (1 + FLOOR))


def test_progress_counts_images() -> None:
    done: list[int] = []
    row_importance(vit(), ["pooled"], image_batches(images(4), 2), RULE_SETS["relp"], largest_logit, done.append)
    assert done == [2, 2]
