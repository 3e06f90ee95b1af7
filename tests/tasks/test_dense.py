"""Depth and masks against labels, with values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.data.labels.maps import LabelMap
from qvit_deploy.data.window import WHOLE
from qvit_deploy.errors import InputError
from qvit_deploy.tasks.dense import Dense
from qvit_deploy.tasks.registry import task_of
from qvit_deploy.tasks.views import Plane
from tests.support.interfaces import interface


def dense(text: str = "dense", shape: tuple[int | str, ...] = ("b", 2, 2)) -> Dense:
    task = task_of(interface({"depth": shape}), text)
    assert isinstance(task, Dense)
    return task


def label(values: object) -> LabelMap:
    return LabelMap(np.array(values), WHOLE, "a.png")


DEPTH = np.array([[[1.0, 2], [4, 8]]])


def test_only_pixels_with_a_depth_count() -> None:
    depths, truth = dense().at_labels(DEPTH, label([[0, 3], [0, 4]]))
    assert depths.tolist() == [2, 8] and truth.tolist() == [3, 4]


def test_depths_up_to_a_scale_in_either_space() -> None:
    metres = label((DEPTH[0] * 1000).astype(int))
    depths, truth = dense("dense:scale=1000,align=affine").at_labels(5 - 3 * DEPTH, metres)
    np.testing.assert_allclose(depths, truth)
    depths, truth = dense("dense:scale=1000,align=affine,inverse=true").at_labels(2 / DEPTH + 7, metres)
    np.testing.assert_allclose(depths, truth)
    depths, truth = dense("dense:scale=1000,align=median").at_labels(2 * DEPTH, metres)
    np.testing.assert_allclose(depths, truth)


@pytest.mark.parametrize(
    ("maps", "values", "message"),
    [
        (np.zeros((3, 2, 2)), [[1.0, 1], [1, 1]], r"has 3 channels, labels have one.*--labels none"),
        (DEPTH, [[0, 0], [0, 0]], r"label map of a\.png has no depth above 0"),
        (DEPTH, [[1.0, np.nan], [1, 1]], r"labels of a\.png hold NaN or infinity"),
    ],
)
def test_labels_that_do_not_fit(maps: np.ndarray, values: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dense().at_labels(maps, label(values))


def test_without_labels_the_error_is_relative_to_the_float_output() -> None:
    tally = dense().tally(None)
    tally.add({"depth": np.array([[[1.0, 1], [1, 1]]])}, {"depth": np.array([[[2.0, 1], [1, 1]]])}, slice(0, 1))
    tally.add({"depth": np.array([[[1.0, 1], [1, 2]]])}, {"depth": np.array([[[2.0, 1], [1, 1]]])}, slice(1, 2))
    (relative,) = tally.to_float()
    assert relative.value == pytest.approx(3 / 10) and tally.by_labels() == []


def test_a_threshold_makes_it_a_mask() -> None:
    task = dense("dense:threshold=0.5")
    exact, ours = np.array([[[0.9, 0.6], [0.1, 0.2]]]), np.array([[[0.9, 0.4], [0.1, 0.7]]])
    assert task.agreement({"depth": exact}, {"depth": ours}) == 0.5
    assert dense().agreement({"depth": exact}, {"depth": ours}) is None
    tally = task.tally(None)
    tally.add({"depth": ours}, {"depth": exact}, slice(0, 1))
    assert [(f.key, f.value) for f in tally.to_float()][1] == ("iou_to_float", pytest.approx(1 / 3))


def test_the_metric_of_a_pixel() -> None:
    outputs = {"depth": torch.arange(8.0).reshape(2, 2, 2)}
    assert dense().parse_metric("pixel:1,0")(outputs, outputs)(outputs).tolist() == [2, 6]
    features, task = {"depth": torch.arange(16.0).reshape(1, 4, 2, 2)}, dense(shape=("b", 4, 2, 2))
    assert task.parse_metric("pixel:1,0,3")(features, features)(features).tolist() == [14]
    with pytest.raises(InputError, match="of 4 channels name one"):
        task.parse_metric("pixel:1,0")(features, features)(features)
    with pytest.raises(InputError, match="channel 4 is out of range"):
        task.parse_metric("pixel:1,0,4")(features, features)(features)


def test_features_are_seen_as_lengths() -> None:
    (view,) = dense(shape=("b", 2, 1, 1)).views({"depth": np.array([[[[3.0]], [[4.0]]]])})
    assert isinstance(view, Plane) and view.values.tolist() == [[5]]
