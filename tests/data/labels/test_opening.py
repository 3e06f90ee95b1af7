"""Which labels go with which task, and what is said of all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.data.images import ImageSet, open_images
from qvit_deploy.data.labels.maps import LabelMaps
from qvit_deploy.data.labels.opening import open_labels
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError

P = Preprocess(input_size=(3, 4, 4), mean=(0.0,), std=(1.0,))


def images_with(tmp_path: Path, **labels: np.ndarray) -> ImageSet:
    np.savez(tmp_path / "data.npz", images=np.zeros((4, 4, 4), np.uint8), **labels)
    return open_images(str(tmp_path / "data.npz"), P)


def test_labels_that_came_with_the_images(tmp_path: Path) -> None:
    images = images_with(tmp_path, labels=np.arange(4))
    assert open_labels("classify", "classes", None, images) is images.labels
    maps = open_labels("segment", "maps", None, images_with(tmp_path, labels=np.zeros((4, 4, 4), int)))
    assert isinstance(maps, LabelMaps) and len(maps) == 4
    assert open_labels("segment", "maps", None, images_with(tmp_path)) is None


def test_labels_are_left_alone_on_request(tmp_path: Path) -> None:
    assert open_labels("outputs", None, "none", images_with(tmp_path, labels=np.arange(4))) is None


def test_an_archive_of_maps_for_images_without(tmp_path: Path) -> None:
    images = images_with(tmp_path)
    np.savez(tmp_path / "maps.npz", labels=np.ones((4, 2, 2), int))
    maps = open_labels("segment", "maps", str(tmp_path / "maps.npz"), images)
    assert isinstance(maps, LabelMaps) and maps[3].values.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("task", "kind", "labels", "message"),
    [
        ("segment", "maps", np.arange(4), "DATA has a class for every image, task 'segment' takes label maps"),
        ("detect", "boxes", np.arange(4), r"takes boxes: --labels FILE\.json"),
        ("classify", "classes", np.zeros((4, 4, 4), int), "DATA has label maps, task 'classify' takes a class for"),
        ("outputs", None, np.arange(4), "task 'outputs' has no score by labels; .* --labels none"),
    ],
)
def test_labels_of_another_kind(tmp_path: Path, task: str, kind: object, labels: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_labels(task, kind, None, images_with(tmp_path, labels=labels))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("maps", "missing", "no such labels"),
        ("maps", "data.json", "takes label maps.*data.json is not that"),
        ("boxes", "data.npz", r"takes boxes.*data\.npz is not that"),
        ("classes", "data.npz", "comes with DATA"),
        (None, "data.npz", "no score by labels; leave --labels out"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, kind: object, spec: str, message: str) -> None:
    images = images_with(tmp_path)
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(InputError, match=message):
        open_labels("task", kind, str(tmp_path / spec), images)  # type: ignore[arg-type]
