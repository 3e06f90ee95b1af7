from __future__ import annotations

import torch

from qvit_deploy.calibrate.products import IMAGES, ROWS, WINDOWS, ProductSample, head_count, observe_products
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import Site, find_sites
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import HEADS, canonical, fixed_batch, images_for, mixed_vit
from tests.support.graphs.relevance_graphs import Builder


def products(graph: Graph) -> dict[str, Site]:
    return {s.name: s for s in find_sites(graph) if s.second is not None}


def sampled(graph: Graph, images: torch.Tensor, batch: int = 3, seed: int = 0) -> dict[str, ProductSample]:
    return observe_products(Executor(graph), image_batches(images, batch), find_sites(graph), len(images), seed)


def test_samples_are_operands_of_the_product_image_by_image() -> None:
    graph = mixed_vit()
    images = images_for(graph, 6)
    samples, sites = sampled(graph, images), products(graph)
    assert set(samples) == set(sites) == {"attn.qk", "attn.av"}
    for name, site in sites.items():
        output = Executor(graph).run(Examples.images(images), fetch=[site.product])[site.product]
        sample = samples[name]
        assert sample.left.shape == (6 + 2, HEADS, 4, 8 if name == "attn.qk" else 4)
        product = sample.left[:6] @ sample.right[:6]
        # Rows come in random order: each is one of the product's.
        distance = (product[:, :, :, None] - output[:, :, None]).abs().amax(-1)
        assert distance.amin(-1).max() < 1e-5


def test_scores_come_with_the_probabilities_they_turn_into(tiny_swin: Graph) -> None:
    """Swin adds a bias, and in rolled windows a mask, before the softmax."""
    graph = mixed_vit()
    sample = sampled(graph, images_for(graph, 6))["attn.qk"]
    assert sample.probabilities is not None
    torch.testing.assert_close(sample.probabilities, torch.softmax(sample.left @ sample.right, -1))
    swin = sampled(tiny_swin, images_for(tiny_swin, 4))
    rolled = swin["layers.0.blocks.1.attn.qk"]
    assert rolled.probabilities is not None and (rolled.probabilities < 1e-6).float().mean() > 0.1  # masked
    assert all((s.probabilities is None) == n.endswith("av") for n, s in swin.items())
    for s in swin.values():
        if s.probabilities is not None:
            torch.testing.assert_close(s.probabilities.sum(-1), torch.ones(s.left.shape[:-1]))


def test_the_largest_magnitudes_are_in_the_sample_head_by_head() -> None:
    """Of 40 images 8 are drawn; the extremes are there all the same, with the operand that belongs to them."""
    graph = mixed_vit()
    images = images_for(graph, 40)
    samples = sampled(graph, images, batch=7)
    for name, site in products(graph).items():
        assert site.second is not None
        left, right, output = (
            Executor(graph).run(Examples.images(images), fetch=[site.input, site.second, site.product]).values()
        )
        sample = samples[name]
        assert len(sample.left) == IMAGES + 2
        for drawn, every in ((sample.left, left), (sample.right, right)):
            torch.testing.assert_close(drawn.abs().amax((0, 2, 3)), every.abs().amax((0, 2, 3)))
        for head in range(HEADS):
            product = (sample.left @ sample.right)[:, head].flatten(0, 1)
            distance = (product[:, None] - output[:, head].flatten(0, 1)[None]).abs().amax(-1)
            assert distance.amin(-1).max() < 1e-5


def test_swin_keeps_a_few_windows_of_every_image_and_a_few_rows(tiny_swin: Graph) -> None:
    images = images_for(tiny_swin, 4)
    samples = sampled(tiny_swin, images)
    first = samples["layers.0.blocks.0.attn.av"]
    assert first.left.shape == (4 * WINDOWS + 2, 1, 16, 16) and first.right.shape[:2] == (4 * WINDOWS + 2, 1)
    assert all(s.left.shape[2] <= ROWS for s in samples.values())
    second = samples["layers.1.blocks.0.attn.qk"]
    assert second.left.shape[:2] == (4 + 2, 2)  # one window an image


def test_the_same_seed_gives_the_same_sample() -> None:
    graph = mixed_vit()
    images = images_for(graph, 6)
    first, again = sampled(graph, images), sampled(graph, images)
    assert all(torch.equal(first[n].left, again[n].left) for n in first)


def test_without_attention_products_nothing_runs() -> None:
    assert (
        observe_products(Executor(mixed_vit()), [Examples.images(b) for b in iter([torch.full((1, 9), 0.0)])], (), 1, 0)
        == {}
    )


def test_errors_are_changes_of_the_output_or_of_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 3, 5, 6, generator=generator)
    p = torch.softmax(left @ right, -1)
    values, scores = ProductSample(left, right, None), ProductSample(left, right, p)
    torch.testing.assert_close(values.power(), (left @ right).square().sum((0, 2, 3)))
    torch.testing.assert_close(values.left_error(2 * left), values.power())
    torch.testing.assert_close(values.right_error(2 * right), values.power())
    torch.testing.assert_close(scores.power(), p.square().sum((0, 2, 3)))
    small = 1e-3 * torch.randn(right.shape, generator=generator)
    change = (torch.softmax(left @ (right + small), -1) - p).square().sum((0, 2, 3))
    torch.testing.assert_close(scores.right_error(right + small), change, rtol=0.02, atol=0)
    shifted = right + torch.randn(2, 3, 5, 1, generator=generator)  # the same for every key
    assert scores.right_error(shifted).max() < 1e-8 and values.right_error(shifted).min() > 0.1
    assert scores.left_error(left).tolist() == scores.right_error(right).tolist() == [0, 0, 0]


def test_a_head_axis_is_the_second_of_four_behind_the_batch(tiny_swin: Graph) -> None:
    for graph, heads in ((mixed_vit(), {2}), (tiny_swin, {1, 2}), (fixed_batch(mixed_vit(), 4), {2})):
        assert {head_count(graph, s) for s in products(graph).values()} == heads


def test_heads_merged_into_the_batch_are_not_an_axis() -> None:
    b = Builder()
    x = b.op("Reshape", "image", b.constant([0, 4, 16]))
    q, k, v = (b.op("MatMul", x, b.normal(16, 16, scale=0.3, name=f"attn.{n}.weight")) for n in "qkv")
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1]))
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    graph = canonical(b, b.linear(b.op("ReduceMean", mixed, b.constant([1]), keepdims=0), 16, 5, "head"), (1, 4, 16))
    sites = products(graph)
    assert [head_count(graph, s) for s in sites.values()] == [None, None]
    assert sampled(graph, images_for(graph, 6))["attn.av"].left.shape == (6 + 2, 1, 4, 4)
