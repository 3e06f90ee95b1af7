from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.data.padding import padded
from qvit_deploy.graph.examples import Examples


def test_examples_are_repeated_in_turn() -> None:
    scale = np.ones(2)
    batch = Examples({"x": np.arange(6.0).reshape(3, 2), "ids": np.array([7, 8, 9])}, {"scale": scale})
    filled = padded(batch, 5)
    assert filled.arrays["x"][:, 0].tolist() == [0, 2, 4, 0, 2] and filled.arrays["ids"].tolist() == [7, 8, 9, 7, 8]
    assert filled.shared["scale"] is scale
    assert padded(batch, None) is batch and padded(batch, 3) is batch


@pytest.mark.parametrize("static", [2, 0])
def test_images_that_do_not_fit(static: int) -> None:
    with pytest.raises(ValueError, match="do not go into a batch"):
        padded(Examples.images(np.zeros((3, 1))), static)
    with pytest.raises(ValueError, match="0 images"):
        padded(Examples.images(np.zeros((0, 1))), 4)
