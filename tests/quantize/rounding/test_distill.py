from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qvit_deploy.emit.qdq import emit_qdq
from qvit_deploy.errors import CheckError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import IMAGE
from qvit_deploy.quantize.plan import Plan, ProductPlan, WeightPlan
from qvit_deploy.quantize.rounding.distill import Loss, distill
from qvit_deploy.tasks.classify import CLASSIFY
from qvit_deploy.tasks.outputs import OUTPUTS
from qvit_deploy.tasks.task import arrays
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, canonical, fixed_batch, images_for, mixed_vit
from tests.support.graphs.relevance_graphs import Builder
from tests.support.graphs.several_outputs import two_heads

BITS = 3


def distilled(calibrated: Calibrated, start: Plan, epochs: int, batch: int = 4) -> Plan:
    done: list[int] = []
    plan = distill(
        calibrated.calibration(), start, image_batches(calibrated.images, batch), epochs, 0, CLASSIFY, done.append
    )
    assert done == [1] * epochs
    return plan


def error(calibrated: Calibrated, plan: Plan) -> float:
    """What distillation minimises, of the emitted graph on the images as they are."""
    loss = Loss(Executor(calibrated.graph), image_batches(calibrated.images, 4), CLASSIFY)
    with torch.no_grad():
        return float(loss(Executor(emit_qdq(calibrated.graph, plan)), Examples.images(calibrated.images)))


@pytest.mark.parametrize("attention", [False, True])
def test_a_plan_with_wrong_scales_and_biases_is_put_right(attention: bool) -> None:
    calibrated = calibrate(mixed_vit(), (8,), attention=attention, images=8)
    draw, sites = np.random.default_rng(0), {}
    for name, site in calibrated.plan((8, 8), "gptq").sites.items():
        if isinstance(site, WeightPlan) and site.bias is not None:
            scale = site.weight_scale * np.exp(0.04 * draw.standard_normal(site.weight_scale.shape)).astype(np.float32)
            site = replace(site, weight_scale=scale, bias=site.bias + 0.05 * float(np.abs(site.bias).max()))
        sites[name] = site
    plan = distilled(calibrated, Plan(sites), epochs=200)
    assert error(calibrated, plan) < 0.5 * error(calibrated, Plan(sites))


def test_widths_grids_of_attention_and_absent_biases_stay_and_codes_fit() -> None:
    calibrated = calibrate(mixed_vit(head_bias=False), (BITS,), attention=True)
    start = calibrated.plan((BITS, BITS), "none")
    plan = distilled(calibrated, start, epochs=300)
    assert list(plan.sites) == list(start.sites)
    low, high = Int(BITS).range
    changed = 0
    for name, site in plan.sites.items():
        old = start.sites[name]
        assert (site.w_bits, site.a_bits, site.site) == (old.w_bits, old.a_bits, old.site)
        if isinstance(site, ProductPlan):
            assert site == old
            continue
        assert isinstance(old, WeightPlan) and (site.bias is None) == (old.bias is None)
        assert site.codes.dtype == np.int8 and site.codes.shape == old.codes.shape
        assert site.codes.min() >= low and site.codes.max() <= high
        assert site.weight_scale.dtype == np.float32 and (site.weight_scale > 0).all()
        changed += int((site.codes != old.codes).sum())
    assert changed > 0


def test_without_epochs_the_plan_computes_what_it_did() -> None:
    calibrated = calibrate(mixed_vit(), (BITS,))
    start = calibrated.plan((BITS, BITS), "gptq")
    plan = distilled(calibrated, start, epochs=0)
    for name, site in plan.weights().items():
        old = start.weights()[name]
        np.testing.assert_array_equal(site.codes, old.codes)
        np.testing.assert_allclose(site.weight_scale, old.weight_scale, rtol=1e-5)
        assert site.grid.emitted_scale == pytest.approx(old.grid.emitted_scale, rel=1e-5)


def test_a_graph_of_fixed_batch_size_is_fed_whole_batches() -> None:
    calibrated = calibrate(fixed_batch(mixed_vit(), 4), (BITS,), images=8)
    calibrated = replace(calibrated, images=calibrated.images[:6])
    start = calibrated.plan((BITS, BITS), "none")
    batches = [calibrated.images[:4], calibrated.images[2:6], calibrated.images[:4]]
    plan = distill(
        calibrated.calibration(), start, [Examples.images(b) for b in batches], 1, 0, CLASSIFY, lambda _: None
    )
    assert list(plan.sites) == list(start.sites)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    calibrated = calibrate(mixed_vit(), (BITS,))
    start = calibrated.plan((BITS, BITS), "none")
    broken = replace(start.sites["head"], bias=np.full_like(start.sites["head"].bias, math.inf))
    with pytest.raises(CheckError, match="diverged"):
        distilled(calibrated, Plan({**start.sites, "head": broken}), epochs=1)


class Given:
    """A student whose outputs are given."""

    def __init__(self, values: dict[str, torch.Tensor]) -> None:
        self.values, self.outputs = values, tuple(values)

    def run(self, images: Examples[torch.Tensor], fetch: list[str]) -> dict[str, torch.Tensor]:
        return self.values


def test_the_loss_is_the_mean_of_the_noise_to_signal_ratios_of_all_outputs() -> None:
    graph = two_heads()
    teacher, images = Executor(graph), Examples.images(images_for(graph, 8))
    clean = teacher.run(images)
    noisy = {name: value + 0.1 * torch.randn(value.shape) for name, value in clean.items()}
    ratios = {n: float((noisy[n] - y).square().mean() / y.var(0, correction=0).mean()) for n, y in clean.items()}
    loss = Loss(teacher, image_batches(images.arrays[IMAGE], 4), OUTPUTS)
    assert loss.stream == [] and set(ratios) == {"logits", "mask"}

    def of(student: dict[str, torch.Tensor]) -> float:
        return float(loss(Given(student), images))  # type: ignore[arg-type]

    for name, ratio in ratios.items():
        assert of(clean | {name: noisy[name]}) == pytest.approx(ratio / 2, rel=1e-4)
    assert of(noisy) == pytest.approx(sum(ratios.values()) / 2, rel=1e-4)


def test_every_output_gets_better() -> None:
    calibrated = calibrate(two_heads(), (BITS,), images=8)
    start = calibrated.plan((BITS, BITS), "none")
    plan = distill(
        calibrated.calibration(), start, image_batches(calibrated.images, 4), 200, 0, OUTPUTS, lambda _: None
    )
    graphs = calibrated.graph, *(emit_qdq(calibrated.graph, each) for each in (start, plan))
    with torch.no_grad():
        exact, *rounded = (arrays(Executor(graph).run(Examples.images(calibrated.images))) for graph in graphs)
    before, after = (OUTPUTS.sqnr_by_output(exact, each) for each in rounded)
    assert all(after[name] > before[name] + 1 for name in ("logits", "mask"))


def test_positions_that_are_added_are_no_residual_stream() -> None:
    """Positions that are expanded to the batch, queries that start as constants, and sums of indices."""
    b = Builder()
    count = b.op("Shape", "image", start=0, end=1)
    shape = b.op("Concat", count, b.constant([4, 8]), axis=0)
    positions = b.op("Expand", b.normal(1, 4, 8), shape, name="positions")
    queries = b.op("Add", positions, b.op("Sin", positions), name="queries")
    x = b.op("Transpose", b.op("Reshape", "image", b.constant([0, 8, 4])), perm=[0, 2, 1])
    x = b.op("Add", x, queries, name="embedded")
    x = b.op("Add", x, b.linear(x, 8, 8, "mlp"), name="stream")
    best = b.op("ArgMax", x, axis=2, keepdims=1)
    place = b.op("Cast", b.op("Add", best, b.op("ArgMax", x, axis=2, keepdims=1, select_last_index=1)), to=1)
    y = b.op("ReduceMean", b.op("Mul", x, place), b.constant([1]), keepdims=0)
    graph = canonical(b, b.linear(y, 8, 3, "head", "logits"), (2, 4, 4))
    batches = image_batches(images_for(graph, 4), 2)
    assert Loss(Executor(graph), batches, CLASSIFY).stream == ["stream_out"]
