"""Resizing against torch, and windows that see a part of the labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.data.labels.maps import LabelMap
from qvit_deploy.data.window import WHOLE, Window
from qvit_deploy.tasks.planes import interpolated, nearest


@pytest.mark.parametrize("size", [(4, 6), (16, 24), (13, 7), (3, 5), (1, 1)])
def test_whole_maps_as_torch_resizes_them(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    label = LabelMap(np.arange(size[0] * size[1]).reshape(size), WHOLE, "a")
    resized, labels = interpolated(maps, label)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(maps)[None], size, mode="bilinear")[0]
    np.testing.assert_allclose(resized, wanted, atol=1e-6)
    assert (labels == label.values).all()


@pytest.mark.parametrize("size", [(4, 6), (16, 24), (13, 7), (3, 5)])
def test_the_nearest_cell_as_torch_finds_it(size: tuple[int, int]) -> None:
    plane = np.arange(24).reshape(4, 6)
    resized, _ = nearest(plane, LabelMap(np.zeros(size), WHOLE, "a"))
    wanted = torch.nn.functional.interpolate(torch.from_numpy(plane)[None, None].float(), size, mode="nearest-exact")
    np.testing.assert_array_equal(resized, wanted[0, 0])


def test_only_what_the_model_sees_counts() -> None:
    plane = np.arange(16.0).reshape(4, 4)
    picture = np.full((4, 8), -1.0)
    picture[:, 2:6] = plane  # the model sees the square in the middle
    label = LabelMap(picture, Window(0, 0.25, 1, 0.75), "a")
    for resized, labels in (nearest(plane, label), (interpolated(plane[None], label)[0][0], picture[:, 2:6])):
        np.testing.assert_array_equal(resized, plane)
        np.testing.assert_array_equal(labels, plane)
