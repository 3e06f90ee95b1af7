from __future__ import annotations

import torch

from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.quantize.rounded_weight import RoundedWeights
from qvit_deploy.quantize.rounding.compensate import round_weight
from qvit_deploy.quantize.rounding.prequantized import prequantize_weights
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import calibrate, mixed_vit

WIDTHS = (3, 6)
FORMATS = tuple(map(Int, WIDTHS))


def rounded(feedback: bool) -> tuple[RoundedWeights, list[int]]:
    calibrated, done = calibrate(mixed_vit(), WIDTHS), list[int]()
    batches = image_batches(calibrated.images, 2) if feedback else None
    prequantized = prequantize_weights(
        Executor(calibrated.graph),
        calibrated.sites,
        calibrated.weights,
        {},
        FORMATS,
        batches,
        done.append,
    )
    return prequantized, done


def test_without_images_every_weight_is_rounded_to_nearest() -> None:
    calibrated = calibrate(mixed_vit(), WIDTHS)
    weights, done = rounded(feedback=False)
    assert set(weights) == {(name, format) for name in calibrated.weights for format in FORMATS}
    assert sum(done) == len(calibrated.weights)
    for (name, format), weight in weights.items():
        assert torch.equal(weight.codes, round_weight(calibrated.weights[name], format, None).codes)


def test_with_images_linears_lose_less_output_and_convolutions_stay() -> None:
    calibrated, executor = calibrate(mixed_vit(), WIDTHS), Executor(mixed_vit())
    nearest, fed_back = rounded(feedback=False)[0], rounded(feedback=True)[0]
    for site in (s for s in calibrated.sites if s.name in calibrated.weights):
        if site.kind == "conv":
            assert torch.equal(nearest[site.name, Int(3)].codes, fed_back[site.name, Int(3)].codes)
            continue
        x = executor.run(Examples.images(calibrated.images), fetch=[site.input])[site.input].flatten(0, -2)
        x = x - x.mean(0)
        error = [float((x @ (w[site.name, Int(3)].value() - calibrated.weights[site.name])).square().sum())
                 for w in (nearest, fed_back)]  # fmt: skip
        assert error[1] < error[0]
