from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.errors import InputError
from qvit_deploy.targets.batches import DEFAULT_BATCH, in_batches, run_shape


@given(st.integers(1, 20), st.one_of(st.none(), st.integers(1, 7)))
def test_every_image_comes_back_once_in_its_place(count: int, static: int | None) -> None:
    images = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    sizes: list[int] = []

    def run(chunk: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(chunk))
        return [chunk * 2, chunk.sum(1)]

    doubled, sums = in_batches(images, static, run)
    assert np.array_equal(doubled, images * 2) and np.array_equal(sums, images.sum(1))
    assert set(sizes) == {static} if static else max(sizes) <= DEFAULT_BATCH


def test_only_padding_is_cut() -> None:
    """A tensor of windows has more rows than there are images."""
    windows = in_batches(np.zeros((3, 1), np.float32), None, lambda chunk: [np.repeat(chunk, 4, axis=0)])
    assert windows[0].shape == (12, 1)


def test_shapes() -> None:
    assert run_shape("m", "x", ["batch", 3, 8, 8], None) == (1, 3, 8, 8)
    assert run_shape("m", "x", ["batch", 3, 8, 8], None, DEFAULT_BATCH) == (DEFAULT_BATCH, 3, 8, 8)
    assert run_shape("m", "x", ["batch", 3, 8, 8], 5, DEFAULT_BATCH) == (5, 3, 8, 8)
    assert run_shape("m", "x", [2, 3, 8, 8], None, DEFAULT_BATCH) == (2, 3, 8, 8)
    for declared, words in (
        ([], "scalar"),
        (["b", 3, "height", 8], "open dimension 'height'"),
        ([2, 3], "batches of 2"),
    ):
        with pytest.raises(InputError, match=words):
            run_shape("m", "x", declared, 4)
