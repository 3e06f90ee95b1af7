from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.quantize.ranges.clip import weight_scale
from qvit_deploy.quantize.scoring.sensitivity import linear_sensitivity
from qvit_deploy.relevance.rule_sets import RULE_SETS
from qvit_deploy.tasks.classify import largest_logit
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import CLASSES, WIDTH, calibrate, canonical, mixed_vit
from tests.support.graphs.relevance_graphs import Builder


def linear_network() -> Graph:
    """3 x 16 x 16 images cut into 4 rows of 192; two linears, the mean of the rows, the head. No nonlinearity."""
    b = Builder(0)
    x = b.op("Reshape", "image", b.constant([0, 4, 192]))
    x = b.linear(b.linear(x, 192, WIDTH, "first"), WIDTH, WIDTH, "second")
    pooled = b.op("ReduceMean", x, b.constant([1]), keepdims=0)
    return canonical(b, b.linear(pooled, WIDTH, CLASSES, "head", "logits"), (3, 16, 16))


@pytest.mark.parametrize("name", ["first", "second", "head"])
def test_without_nonlinearities_the_estimate_is_exact(name: str) -> None:
    calibrated = calibrate(linear_network(), (3, 5))
    sensitivity, images = linear_sensitivity(
        calibrated.calibration(),
        image_batches(calibrated.images, 4),
        RULE_SETS["gradient"],
        largest_logit,
        lambda _: None,
    )
    assert images == 6
    site = next(s for s in calibrated.sites if s.name == name)
    executor, weight = Executor(calibrated.graph), calibrated.weights[name]
    clean = executor.run(Examples.images(calibrated.images))["logits"]
    x = executor.run(Examples.images(calibrated.images), fetch=[site.input])[site.input]
    centred = x - calibrated.observations[site.input].mean
    for bits in (3, 5):
        moves = {
            "activation": (calibrated.grids[site.input, Int(bits)].apply(x) - x) @ weight,
            "weight": centred @ (Int(bits).fake_quantize(weight, weight_scale(weight, Int(bits))) - weight),
        }
        for operand, move in moves.items():
            changed = executor.run(Examples.images(calibrated.images), {site.output: lambda y, move=move: y + move})[
                "logits"
            ]
            change = (changed - clean).gather(1, clean.argmax(1, keepdim=True))
            expected = float(change.square().mean())
            assert getattr(sensitivity[name], operand)[Int(bits)] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rules", ["gradient", "relp"])
def test_every_kind_of_site_has_a_finite_estimate_that_falls_with_bits(rules: str) -> None:
    calibrated = calibrate(mixed_vit(), (2, 8), attention=True)
    batches = image_batches(calibrated.images, 2)
    sensitivity, _ = linear_sensitivity(
        calibrated.calibration(), batches, RULE_SETS[rules], largest_logit, lambda _: None
    )
    for error in sensitivity.values():
        assert np.isfinite(error.at(Int(2), Int(2))) and error.at(Int(2), Int(2)) > error.at(Int(8), Int(8)) > 0


def test_batches_of_different_sizes_give_the_same_estimate() -> None:
    calibrated = calibrate(mixed_vit(), (4,))
    one, other = (
        linear_sensitivity(
            calibrated.calibration(),
            image_batches(calibrated.images, n),
            RULE_SETS["relp"],
            largest_logit,
            lambda _: None,
        )[0]
        for n in (1, 4)
    )
    for name in one:
        # Not closer: a last bit upstream moves a value across a rounding boundary.
        assert one[name].at(Int(4), Int(4)) == pytest.approx(other[name].at(Int(4), Int(4)), rel=0.03)
