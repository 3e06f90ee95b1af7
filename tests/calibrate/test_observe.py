from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.calibrate.observe import MAX_ROWS, Observation, observe, site_macs, site_tensors
from qvit_deploy.errors import NonFiniteError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import calibrate, canonical, images_for, mixed_vit
from tests.support.graphs.relevance_graphs import Builder

TENSOR = "hidden_out"


def watch(graph: Graph, images: torch.Tensor, batch: int, *names: str, seed: int = 0) -> dict[str, Observation]:
    done: list[int] = []
    seen = observe(Executor(graph), image_batches(images, batch), names, len(images), seed, {}, done.append)
    assert sum(done) == len(images)
    return seen


def whole(graph: Graph, images: torch.Tensor, name: str) -> torch.Tensor:
    values = Executor(graph).run(Examples.images(images), fetch=[name])[name]
    return values.reshape(-1, values.shape[-1])


@pytest.mark.parametrize("batch", [1, 4, 10])
def test_extremes_are_those_of_all_images_whatever_the_batch(batch: int) -> None:
    graph = mixed_vit()
    images = images_for(graph, 10)
    seen = watch(graph, images, batch, TENSOR)[TENSOR]
    every = whole(graph, images, TENSOR)
    np.testing.assert_allclose(seen.channel_low, every.amin(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.channel_high, every.amax(0), rtol=1e-5, atol=1e-6)
    assert seen.low == seen.channel_low.min() and seen.high == seen.channel_high.max()
    assert seen.absmax == max(-seen.low, seen.high)
    assert seen.elements == every.numel() // 10


def test_few_rows_are_all_kept_and_many_are_sampled_with_the_extremes() -> None:
    graph = mixed_vit()
    few = images_for(graph, 3)
    sample, every = watch(graph, few, 2, TENSOR)[TENSOR].rows, whole(graph, few, TENSOR)
    assert all((sample - row).abs().amax(1).min() < 1e-5 for row in every)

    many = images_for(graph, 300)
    sample, every = watch(graph, many, 50, TENSOR)[TENSOR].rows, whole(graph, many, TENSOR)
    assert len(sample) == MAX_ROWS and len(every) > MAX_ROWS
    assert torch.isclose(sample.abs().max(), every.abs().max())
    torch.testing.assert_close(sample.mean(), every.mean(), rtol=0.1, atol=0.02)
    assert all((every - row).abs().amax(1).min() < 1e-5 for row in sample[::100])


def test_the_sample_depends_on_the_seed_only() -> None:
    graph = mixed_vit()
    images = images_for(graph, 300)
    first, again, other = (watch(graph, images, 50, TENSOR, seed=s)[TENSOR].rows for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_one_massive_activation_among_many_rows_is_kept() -> None:
    b = Builder()
    x = b.op("Reshape", "image", b.constant([0, 64, 16]), name="tokens")
    graph = canonical(
        b, b.linear(b.op("ReduceMean", x, b.constant([1]), keepdims=0), 16, 5, "head", "logits"), (1, 64, 16)
    )
    images = torch.randn(100, 1, 64, 16, generator=torch.Generator().manual_seed(0))
    images[57, 0, 13, 7] = -500
    seen = watch(graph, images, 10, "image")["image"]
    assert seen.low == -500 and seen.rows.min() == -500


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite_are_named(value: float) -> None:
    graph = mixed_vit()
    images = images_for(graph, 5)
    images[3, 0, 2, 2] = value
    with pytest.raises(NonFiniteError, match=r"'image' is NaN or infinite on the calibration images"):
        watch(graph, images, 2, "image", TENSOR)
    with pytest.raises(NonFiniteError, match=r"output 'logits'"):
        watch(graph, images, 2)


def test_tensors_are_observed_once_however_many_sites_read_them() -> None:
    """q, k and v read one tensor; key, value and what the convolution writes come on top."""
    sites = find_sites(mixed_vit())
    names = site_tensors(sites)
    assert len(names) == len(set(names)) == len(sites) - 2 + 3
    assert names[0] == "image" and sites[0].output in names


def test_multiply_adds_are_counted_per_image() -> None:
    """Convolution: 16 x 8 x 8 outputs of 3 x 3 x 3 terms; q: 4 tokens x 16 x 16; QK and AV: 2 heads x 4 x 4 x 8."""
    graph = mixed_vit()
    calibrated = calibrate(graph, (8,), attention=True)
    sites = {s.name: s for s in calibrated.sites}
    seen = watch(graph, images_for(graph, 3), 2, *site_tensors(calibrated.sites))

    def macs(name: str) -> int:
        weight = calibrated.weights.get(name)
        return site_macs(sites[name], seen, None if weight is None else tuple(weight.shape))

    expected = {
        "stem": 16 * 64 * 27, "patch": 4 * 256 * 16, "attn.q": 4 * 16 * 16, "fc1": 4 * 16 * 64, "head": 16 * 5,
        "attn.qk": 2 * 4 * 4 * 8, "attn.av": 2 * 4 * 4 * 8,
    }  # fmt: skip
    assert {name: macs(name) for name in expected} == expected
