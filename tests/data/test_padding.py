from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.data.padding import padded


def test_images_are_repeated_in_turn() -> None:
    images = np.arange(6.0).reshape(3, 2)
    assert padded(images, 5)[:, 0].tolist() == [0, 2, 4, 0, 2]
    assert padded(images, None) is images and padded(images, 3) is images


@pytest.mark.parametrize("static", [2, 0])
def test_images_that_do_not_fit(static: int) -> None:
    with pytest.raises(ValueError, match="do not go into a batch"):
        padded(np.zeros((3, 1)), static)
    with pytest.raises(ValueError, match="0 images"):
        padded(np.zeros((0, 1)), 4)
