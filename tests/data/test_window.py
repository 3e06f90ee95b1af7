"""The window against what preprocessing does to a picture whose pixels say where they are."""

from __future__ import annotations

import numpy as np
import pytest

from qvit_deploy.data.preprocess import Preprocess


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (120, 64), (101, 77)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("target", [(32, 32), (32, 48)])
def test_the_window_is_what_the_model_sees(size: tuple[int, int], crop_pct: float, target: tuple[int, int]) -> None:
    preprocess = Preprocess(
        input_size=(3, *target), mean=(0.0,), std=(1.0,), crop_pct=crop_pct, interpolation="bilinear"
    )
    rows = np.broadcast_to(np.arange(size[0])[:, None, None] * 2, (*size, 3)).astype(np.uint8)
    columns = np.broadcast_to(np.arange(size[1])[None, :, None] * 2, (*size, 3)).astype(np.uint8)
    window = preprocess.window(*size)
    # The value at a point is twice its row less half a pixel; resizing is linear away from the edges.
    top, left = (np.rint(preprocess.apply(picture)[0] * 255 / 2) for picture in (rows, columns))
    middle = slice(target[0] // 2 - 4, target[0] // 2 + 4)
    place = (np.arange(target[0]) + 0.5) / target[0]
    expected = (window.top + place * (window.bottom - window.top)) * size[0] - 0.5
    np.testing.assert_allclose(top[middle, 5], expected[middle], atol=0.8)
    middle = slice(target[1] // 2 - 4, target[1] // 2 + 4)
    place = (np.arange(target[1]) + 0.5) / target[1]
    expected = (window.left + place * (window.right - window.left)) * size[1] - 0.5
    np.testing.assert_allclose(left[5, middle], expected[middle], atol=0.8)
