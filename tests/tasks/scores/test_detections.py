"""Boxes against torchvision's functions, and matches worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.tasks.scores.detections import Detections, box_iou, matched, ranked, suppressed


def random_boxes(n: int, seed: int) -> np.ndarray:
    corner = np.random.default_rng(seed).uniform(0, 1, (n, 2, 2))
    return np.concatenate([corner.min(1), corner.max(1)], 1)


def test_overlaps_and_suppression_as_torchvision_computes_them() -> None:
    ops = pytest.importorskip("torchvision.ops")
    boxes, random = random_boxes(80, 0), np.random.default_rng(1)
    np.testing.assert_allclose(
        box_iou(boxes, boxes[:9]), ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes[:9])), atol=1e-12
    )
    best = ranked(boxes, random.integers(0, 3, 80), random.uniform(0, 1, 80), 70)
    expected = ops.batched_nms(*(torch.from_numpy(v) for v in (best.boxes, best.scores, best.classes)), 0.4)
    np.testing.assert_array_equal(suppressed(best, 0.4).scores, best.scores[expected.numpy()])


def test_boxes_without_an_area_overlap_nothing() -> None:
    assert box_iou(np.array([[0.2, 0.2, 0.2, 0.5]]), np.array([[0.2, 0.2, 0.2, 0.5]])).tolist() == [[0]]


def test_ranking_keeps_the_order_of_equal_scores() -> None:
    best = ranked(random_boxes(4, 0), np.arange(4), np.array([0.5, 0.9, 0.5, 0.1]), 3)
    assert best.classes.tolist() == [1, 0, 2] and best.above(0.6).classes.tolist() == [1]


def detections(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    values = np.array(rows, np.float64).reshape(-1, 6)
    return ranked(values[:, :4], values[:, 4], values[:, 5], 100)


def test_matches_need_place_and_class_and_are_used_once() -> None:
    float_model = detections((0, 0, 1, 1, 3, 0.9), (0, 0, 0.5, 0.5, 1, 0.8))
    assert matched(float_model, float_model) == 2
    assert matched(float_model, detections((0, 0, 1, 0.6, 3, 0.7), (0, 0, 1, 0.9, 3, 0.6))) == 1
    assert matched(float_model, detections((0, 0, 1, 1, 2, 0.7))) == 0
    assert matched(float_model, detections((0, 0, 1, 0.4, 3, 0.7))) == 0
    assert matched(float_model, detections()) == 0
