"""Average precision of detections whose value is known."""

from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.data.labels.boxes import ImageBoxes
from qvit_deploy.data.window import WHOLE, Window
from qvit_deploy.errors import InputError
from qvit_deploy.tasks.detect.coco import average_precision, categories_of_classes
from qvit_deploy.tasks.scores.detections import Detections, ranked
from tests.support.absent_libraries import without

IDS = np.array([1, 7])


def labels(*boxes: tuple[float, float, float, float, int], window: Window = WHOLE) -> ImageBoxes:
    values = np.array(boxes, np.float64).reshape(-1, 5)
    areas = values[:, 2] * values[:, 3]
    return ImageBoxes(values[:, :4], values[:, 4].astype(int), areas, np.zeros(len(values), bool), (100, 200), window)


def detections(*rows: tuple[float, float, float, float, int, float]) -> Detections:
    values = np.array(rows, np.float64).reshape(-1, 6)
    return ranked(values[:, :4], values[:, 4], values[:, 5], 100)


def test_perfect_detections_and_none() -> None:
    pytest.importorskip("pycocotools")
    truth = [labels((20, 10, 40, 30, 1), (0, 0, 200, 100, 7)), labels((100, 50, 100, 50, 7))]
    right = [detections((0.1, 0.1, 0.3, 0.4, 0, 0.9), (0, 0, 1, 1, 1, 0.8)), detections((0.5, 0.5, 1, 1, 1, 0.7))]
    assert average_precision(right, truth, IDS) == pytest.approx((1, 1, 1))
    assert average_precision([detections(), detections()], truth, IDS) == (0, 0, 0)


def test_a_box_that_is_a_little_off() -> None:
    pytest.importorskip("pycocotools")
    # Overlap 0.72: right at 0.50, 0.55, ... 0.70, which are 5 of the 10 overlaps.
    precision = average_precision([detections((0, 0, 0.72, 1, 0, 0.9))], [labels((0, 0, 200, 100, 1))], IDS)
    assert precision == pytest.approx((0.5, 1, 0))


def test_boxes_of_a_model_that_sees_the_middle() -> None:
    pytest.importorskip("pycocotools")
    truth = [labels((50, 0, 100, 100, 1), window=Window(0, 0.25, 1, 0.75))]
    assert average_precision([detections((0, 0, 1, 1, 0, 0.9))], truth, IDS).ap == pytest.approx(1)


def test_classes_are_categories_in_order_or_their_ids() -> None:
    assert categories_of_classes(IDS, 2).tolist() == [1, 7]
    assert categories_of_classes(IDS, 8).tolist() == list(range(8))
    with pytest.raises(InputError, match=r"3 classes apart, which are neither the 2 categories .* ids up to 7"):
        categories_of_classes(IDS, 3)


def test_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "pycocotools.cocoeval")
    with pytest.raises(InputError, match=r"pip install 'qvit-deploy\[detect\]'"):
        average_precision([], [], IDS)
