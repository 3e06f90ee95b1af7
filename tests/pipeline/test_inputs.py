from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.frontend import Source
from qvit_deploy.graph.examples import IMAGE
from qvit_deploy.graph.graph import Graph
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.pipeline.inputs import Inputs, open_inputs
from qvit_deploy.progress import Stopwatch
from qvit_deploy.recipe import Recipe
from tests.support.graphs.quantizable_graphs import fixed_batch, mixed_vit

PREPROCESS = Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "calib.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(12) % 3)
    return str(path)


def opened(calib: str | None, graph: Graph | None = None, images: int = 8) -> Inputs:
    recipe = Recipe(calibration_images=images, batch_size=3)
    options = InputOptions(calib, preprocess=PREPROCESS)
    return open_inputs(Source(graph or mixed_vit(), None, "a graph"), options, recipe, Stopwatch())


def test_held_out_images_are_those_calibration_does_not_see(calib: str) -> None:
    inputs = opened(calib)
    drawn, rest = inputs.batches.images, inputs.held_out
    assert rest is not None and inputs.measured is rest and len(drawn) == 8 and len(rest) == 4
    assert not set(drawn.names) & set(rest.names)


def test_where_calibration_needs_all_its_images_are_measured_on(calib: str) -> None:
    inputs = opened(calib, images=12)
    assert inputs.held_out is None and inputs.measured is inputs.batches.images


def test_batches_are_decoded_on_every_pass_and_the_last_may_be_smaller(calib: str) -> None:
    batches = opened(calib).batches
    for _ in range(2):
        assert [tuple(b.arrays[IMAGE].shape) for b in batches] == [(3, 3, 16, 16), (3, 3, 16, 16), (2, 3, 16, 16)]
    assert [len(b) for b in batches.sample(4, 0, at_once=2)] == [2, 2]


def test_a_fixed_batch_is_filled_up_with_images_seen_already(calib: str) -> None:
    batches = opened(calib, fixed_batch(mixed_vit(), 5)).batches
    first, last = list(batches.sample(8, 0, at_once=2))
    assert len(first) == len(last) == 5
    assert torch.equal(last.arrays[IMAGE][3:], last.arrays[IMAGE][:2])


def test_calibration_images_are_not_made_up(calib: str) -> None:
    with pytest.raises(InputError, match="pass --calib"):
        opened(None)
    with pytest.raises(InputError, match=r"none\.npz"):
        opened(str(Path(calib).with_name("none.npz")))


@pytest.mark.parametrize("images", [2, 7, 8])
def test_halves_share_no_image(calib: str, images: int) -> None:
    batches = opened(calib, images=images).batches
    first, second = (set(half.images.names) for half in batches.halves(0))
    assert not first & second and first | second == set(batches.images.names) and min(len(first), len(second)) >= 1
