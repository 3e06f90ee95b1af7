"""Scores with values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qvit_deploy.tasks.scores.confusion import confusion, mean_iou, pixel_accuracy
from qvit_deploy.tasks.scores.dense import aligned, depth_errors, iou, mask_counts
from qvit_deploy.tasks.scores.neighbours import cosines, knn_accuracy, nearest, shared

ANGLES = np.deg2rad([0, 10, 25, 90, 95])
VECTORS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1) * np.array([[1], [5], [2], [1], [9]])


def test_cosines_do_not_see_lengths() -> None:
    turned = np.stack([np.cos(ANGLES + np.pi / 3), np.sin(ANGLES + np.pi / 3)], 1)
    np.testing.assert_allclose(cosines(VECTORS, turned), 0.5)
    assert cosines(np.zeros((1, 2)), np.ones((1, 2))).tolist() == [0]


def test_neighbours_by_angle_in_order() -> None:
    assert nearest(VECTORS, 2).tolist() == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2]]


def test_neighbours_across_blocks() -> None:
    """1,500 rows are two blocks, each compared with all rows."""
    vectors = np.random.default_rng(0).standard_normal((1500, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = unit @ unit.T - 9 * np.eye(1500)
    assert (nearest(vectors, 4) == np.argsort(-similar, axis=1)[:, :4]).all()


def test_shared_neighbours_in_any_order() -> None:
    assert shared(np.array([[1, 2], [0, 2]]), np.array([[2, 1], [2, 3]])) == 0.75


def test_the_vote_of_neighbours() -> None:
    neighbours = np.array([[1, 2, 3], [0, 2, 3], [3, 1, 0], [2, 0, 1]])
    # Votes: of 1, 1, 0 the 1; of 0, 1, 0 the 0; of 0, 1, 0 the 0; of 1, 0, 1 the 1.
    assert knn_accuracy(neighbours, np.array([0, 1, 1, 0])) == 0
    assert knn_accuracy(np.array([[1, 2], [0, 2], [0, 1]]), np.array([0, 0, 1])) == pytest.approx(2 / 3)


def test_a_tied_vote_goes_to_the_nearest() -> None:
    assert knn_accuracy(np.array([[1, 2], [2, 0], [0, 1]]), np.array([0, 0, 1])) == pytest.approx(1 / 3)


def test_iou_of_classes_that_are_there() -> None:
    counts = confusion(np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 1]]), 3)
    assert counts.tolist() == [[1, 0, 0], [1, 2, 0], [0, 0, 0]]
    assert mean_iou(counts) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert pixel_accuracy(counts) == 0.75
    assert math.isnan(mean_iou(np.zeros((2, 2), np.int64))) and math.isnan(pixel_accuracy(np.zeros((2, 2), np.int64)))


def test_depth_errors_by_hand() -> None:
    errors = depth_errors(np.array([1.2, 2, 5, -1]), np.array([1.0, 2, 4, 1]))
    assert errors.abs_rel == pytest.approx((0.2 + 0 + 0.25 + 2) / 4)
    assert errors.delta1 == 0.5  # 1.25 is not below 1.25, and -1 is no depth
    assert errors.mae == pytest.approx((0.2 + 0 + 1 + 2) / 4)


def test_alignments_undo_what_they_allow_for() -> None:
    depth = np.random.default_rng(0).uniform(1, 9, 101)
    np.testing.assert_allclose(aligned(3 * depth, depth, "median"), depth)
    np.testing.assert_allclose(aligned(3 - 2 * depth, depth, "affine"), depth)
    assert (aligned(np.ones(3), np.array([1.0, 2, 3]), "affine") == 2).all()
    assert (aligned(np.zeros(3), np.ones(3), "median") == 0).all()
    assert (aligned(3 * depth, depth, "none") == 3 * depth).all()


def test_masks_add_up_over_images() -> None:
    first = mask_counts(np.array([True, True, False]), np.array([True, False, False]))
    second = mask_counts(np.array([True, True]), np.array([True, True]))
    assert iou(first + second) == 0.75
    assert iou(mask_counts(np.zeros(2, bool), np.zeros(2, bool))) == 1
