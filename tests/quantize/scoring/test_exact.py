"""Exact sensitivity against whole forward passes that share no code with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qvit_deploy.execute.executor import Executor
from qvit_deploy.formats.integer import Int
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import constant
from qvit_deploy.quantize.ranges.clip import weight_scale
from qvit_deploy.quantize.scoring.exact import exact_sensitivity
from qvit_deploy.quantize.scoring.losses import SiteError
from qvit_deploy.tasks.classify import CLASSIFY
from tests.support.examples import image_batches
from tests.support.graphs.quantizable_graphs import Calibrated, calibrate, mixed_vit

SITES = ["stem", "patch", "attn.q", "attn.qk", "attn.av", "fc1", "fc2", "head"]


@pytest.fixture(scope="module")
def calibrated() -> Calibrated:
    return calibrate(mixed_vit(), (3, 8), attention=True)


@pytest.fixture(scope="module")
def exact_errors(calibrated: Calibrated) -> dict[str, SiteError]:
    seen: list[int] = []
    errors, images = exact_sensitivity(
        calibrated.calibration(), image_batches(calibrated.images, 4), CLASSIFY, seen.append
    )
    assert seen == [4, 2] and images == 6
    return errors


def product(name: str, x: Tensor, other: Tensor) -> Tensor:
    return F.conv2d(x, other, stride=2, padding=1) if name == "stem" else x @ other


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("operand", ["activation", "weight"])
@pytest.mark.parametrize("name", SITES)
def test_it_is_the_change_of_the_logits(
    calibrated: Calibrated, exact_errors: dict[str, SiteError], name: str, operand: str, bits: int
) -> None:
    site = next(s for s in calibrated.sites if s.name == name)
    executor, images = Executor(calibrated.graph), calibrated.images
    clean = executor.run(Examples.images(images))["logits"]
    x = executor.run(Examples.images(images), fetch=[site.input])[site.input]
    if site.second is not None:
        other = executor.run(Examples.images(images), fetch=[site.second])[site.second]
        rounded = calibrated.grids[site.second, Int(bits)].apply(other)
    else:
        array = constant(calibrated.graph.initializers[site.weight or ""])
        assert array is not None
        other = torch.from_numpy(array.copy())
        columns = other.flatten(1).t() if name == "stem" else other
        matrix = Int(bits).fake_quantize(columns, weight_scale(columns, Int(bits)))
        rounded = matrix.t().reshape(other.shape) if name == "stem" else matrix
    grid = calibrated.grids[site.input, Int(bits)]
    # The bias makes good for what rounded weights do to the mean output of a linear.
    if operand == "weight" and site.kind == "linear":
        x = x - calibrated.observations[site.input].mean
    pair = (grid.apply(x) - grid.shift, other) if operand == "activation" else (x, rounded)
    before = product(name, x, other)
    changed = executor.run(Examples.images(images), {site.output: lambda y: y - before + product(name, *pair)})[
        "logits"
    ]
    expected = float((changed - clean).double().square().sum() / clean.double().square().sum())
    assert getattr(exact_errors[name], operand)[Int(bits)] == pytest.approx(expected, rel=1e-3)


def test_more_bits_lose_less_everywhere(exact_errors: dict[str, SiteError]) -> None:
    for error in exact_errors.values():
        assert (
            0 <= error.activation[Int(8)] < error.activation[Int(3)]
            and 0 <= error.weight[Int(8)] < error.weight[Int(3)]
        )
        assert np.isfinite(error.at(Int(3), Int(3)))
