"""How a subset is drawn, and what the digest of a set depends on."""

from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.data.images import ImageSet, open_images
from qvit_deploy.errors import InputError
from tests.support.picture_folders import P, put, values


def test_subset_is_deterministic_and_keeps_order(classes):
    images = open_images(str(classes), P)
    once, again, other = images.subset(6, 0), images.subset(6, 0), images.subset(6, 1)
    assert once.names == again.names != other.names
    assert list(once.names) == [n for n in images.names if n in once.names]
    assert images.subset(100, 0) is images
    with pytest.raises(InputError):
        images.subset(0, 0)


@pytest.mark.parametrize("n", range(1, 21))
def test_subset_is_balanced_as_far_as_classes_reach(classes, n):
    counts = np.bincount(open_images(str(classes), P).subset(n, 3).labels, minlength=3)
    full = np.array([4, 7, 10])
    assert counts.sum() == n
    assert (counts <= full).all()
    short = counts < full  # a class that is not used up has at most one picture less than any other
    assert not short.any() or counts.max() - counts[short].min() <= 1


def test_limit_is_the_subset(classes):
    whole = open_images(str(classes), P)
    assert open_images(str(classes), P, limit=6, seed=4).names == whole.subset(6, 4).names


def test_labels_follow_their_pictures(classes):
    images = open_images(str(classes), P).subset(9, 0)
    assert [v // 50 for v in values(images)] == images.labels.tolist()


def test_digest_depends_on_what_a_calibration_depends_on(flat):
    images = open_images(str(flat), P)
    same = open_images(str(flat), P)
    assert images.digest == same.digest
    assert images.digest != images.subset(2, 0).digest
    other = P.model_copy(update={"crop_pct": 0.5})
    assert images.digest != open_images(str(flat), other).digest
    (flat / "img10.png").rename(flat / "img11.png")
    assert images.digest == open_images(str(flat), P).digest
    put(flat / "img11.png", 11)
    assert images.digest != open_images(str(flat), P).digest


def test_digest_tells_labels_and_shapes_apart():
    def make(pictures, labels=None):
        return ImageSet(pictures, tuple("ab"), P, labels).digest

    zeros = np.zeros((2, 4, 9), np.uint8)
    digests = [
        make(zeros),
        make(zeros.reshape(2, 9, 4)),
        make(zeros, np.array([0, 0])),
        make(zeros, np.array([0, 1])),
    ]
    assert len(set(digests)) == 4
