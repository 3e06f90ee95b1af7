"""Every rule set on exported timm models: a DINOv2-like ViT and a Swin with shifted windows and patch merging."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest
import timm
import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.frontend.torch_module import from_torch
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from qvit_deploy.relevance.lrp import site_relevance
from qvit_deploy.relevance.rule_sets import RULE_SETS, unit
from qvit_deploy.tasks.classify import largest_logit
from tests.support.relevance_at import relevance_at

Tensor = torch.Tensor


def _dinov2() -> torch.nn.Module:
    size = dict(img_size=28, embed_dim=24, depth=2, num_heads=2, num_classes=4)
    return timm.create_model("vit_small_patch14_dinov2", init_values=0.5, **size)


def _swin() -> torch.nn.Module:
    size = dict(img_size=32, window_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), num_classes=4)
    return timm.create_model("swin_tiny_patch4_window7_224", **size)


MODELS: dict[str, tuple[Callable[[], torch.nn.Module], int, dict[str, int]]] = {
    "dinov2": (_dinov2, 28, dict(norm=5, activation=2, softmax=2, linear=10, conv=0, matmul=4, gate=0, residual=4)),
    # embedding + 2 blocks, merging, 2 blocks, final: 1 + 4 + 1 + 4 + 1 norms; 1 + 8 + 1 + 8 + 1 linear layers
    "swin": (_swin, 32, dict(norm=11, activation=4, softmax=4, linear=19, conv=0, matmul=8, gate=0, residual=8)),
}


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest) -> tuple[Graph, Tensor, dict[str, int]]:
    make, size, firings = MODELS[request.param]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():  # timm initialises weights to 0.02: at that size nothing but the residual stream carries
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(5.0)
    return from_torch(model, (3, size, size), request.param), torch.randn(3, 3, size, size), firings


@pytest.mark.parametrize("rule_set", RULE_SETS)
def test_the_logits_stay_bit_identical(rule_set: str, exported: tuple[Graph, Tensor, dict[str, int]]) -> None:
    graph, images, _ = exported
    bound = RULE_SETS[rule_set].bind(graph, len(images))
    assert torch.equal(
        Executor(graph, overrides=bound.overrides).run(Examples.images(images))["logits"],
        Executor(graph).run(Examples.images(images))["logits"],
    )


def test_every_rule_fires_where_it_should(exported: tuple[Graph, Tensor, dict[str, int]]) -> None:
    graph, _, firings = exported
    assert dict(RULE_SETS["deep-taylor"].bind(graph, 1).firings) == {**firings, "quantizer": 0}
    relp = RULE_SETS["relp-ah"].bind(graph, 1).firings
    assert dict(relp) == {name: firings[name] for name in ("norm", "activation", "softmax", "gate")} | {"quantizer": 0}


@pytest.mark.parametrize("rule_set", RULE_SETS)
def test_images_of_a_batch_do_not_see_each_other(rule_set: str, exported: tuple[Graph, Tensor, dict[str, int]]) -> None:
    """Windows are folded into the leading dimension: a sum over it would mix images."""
    graph, images, _ = exported
    rules, names = RULE_SETS[rule_set], [graph.inputs[0].name or ""]
    runs = []
    for batches in ([images], images.split(1)):
        executor = Executor(graph, overrides=rules.bind(graph, len(batches[0])).overrides)
        start = rules.starting_at(largest_logit)
        parts = [relevance_at(executor, batch, names, start)[names[0]] for batch in batches]
        runs.append(torch.cat([a * g for a, g in parts]))
    scale = runs[1].abs().max()
    torch.testing.assert_close(runs[0] / scale, runs[1] / scale, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("rule_set", RULE_SETS)
def test_every_site_gets_a_score(rule_set: str, exported: tuple[Graph, Tensor, dict[str, int]]) -> None:
    graph, images, _ = exported
    sites = find_sites(graph)
    scores = site_relevance(graph, sites, [Examples.images(images)], RULE_SETS[rule_set], largest_logit, lambda _: None)
    assert list(scores.values) == [site.name for site in sites]
    for site in sites:
        stopped = rule_set == "relp-ah" and site.kind == "matmul_qk"
        assert (scores.values[site.name] == 0) == stopped, site.name


def test_deep_taylor_conserves_the_relevance_of_an_image(exported: tuple[Graph, Tensor, dict[str, int]]) -> None:
    """Down an MLP block nothing is lost; down an attention block only what Swin's position bias takes."""
    graph, images, _ = exported
    overrides = RULE_SETS["deep-taylor"].bind(graph, len(images)).overrides
    sums = [n for n in graph.nodes() if n.op_type == "Add" and n in overrides and len(_data_operands(n)) == 2]
    names = [node.outputs[0].name or "" for node in sums]
    relevance = relevance_at(Executor(graph, overrides=overrides), images, names, objective=unit(largest_logit))
    totals = [(a * g).flatten(1).sum(1) for a, g in (relevance[name] for name in names)]
    torch.testing.assert_close(totals[-1], torch.ones(3), rtol=1e-2, atol=1e-2)
    for after_attention, after_mlp in zip(totals[::2], totals[1::2], strict=True):
        torch.testing.assert_close(after_attention, after_mlp, rtol=1e-2, atol=1e-2)
    if graph.name == "dinov2":
        torch.testing.assert_close(totals[0], torch.ones(3), rtol=1e-2, atol=1e-2)


def _data_operands(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None and not value.is_initializer()]
