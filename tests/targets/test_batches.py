from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.interface import Input, Shape, inputs_of
from qvit_deploy.targets.batches import DEFAULT_BATCH, at_once, in_batches, outputs_in_batches, run_batch


@given(st.integers(1, 20), st.one_of(st.none(), st.integers(1, 7)))
def test_every_image_comes_back_once_in_its_place(count: int, static: int | None) -> None:
    images = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
    sizes: list[int] = []

    def run(chunk: Examples[np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(chunk))
        (values,) = chunk.feeds.values()
        return [values * 2, values.sum(1)]

    doubled, sums = in_batches(Examples.images(images), static, run)
    assert np.array_equal(doubled, images * 2) and np.array_equal(sums, images.sum(1))
    assert set(sizes) == {static} if static else max(sizes) <= DEFAULT_BATCH


@pytest.mark.parametrize(("side", "expected"), [(224, 4), (640, 3), (1024, 1), (2048, 1)])
def test_large_images_run_in_smaller_batches(side: int, expected: int) -> None:
    images = Examples.images(np.broadcast_to(np.float32(0), (9, 3, side, side)))
    assert at_once(images, 4) == expected
    sizes: list[int] = []

    def run(chunk: Examples[np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(chunk))
        return [np.zeros(len(chunk))]

    in_batches(images, None, run)
    assert sum(sizes) == 9 and max(sizes) == at_once(images, DEFAULT_BATCH)


def test_only_padding_is_cut() -> None:
    """A tensor of windows has more rows than there are images."""
    images = Examples.images(np.zeros((3, 1), np.float32))
    windows = in_batches(images, None, lambda chunk: [np.repeat(chunk.arrays["image"], 4, axis=0)])
    assert windows[0].shape == (12, 1)


def inputs(*shapes: Shape) -> tuple[Input, ...]:
    return inputs_of([(f"x{i}", shape, ir.DataType.FLOAT) for i, shape in enumerate(shapes)])


def test_batch_sizes() -> None:
    assert run_batch("m", inputs(("batch", 3, 8, 8)), None) == 1
    assert run_batch("m", inputs(("batch", 3, 8, 8), ("batch", 2)), None, DEFAULT_BATCH) == DEFAULT_BATCH
    assert run_batch("m", inputs(("batch", 3, 8, 8)), 5, DEFAULT_BATCH) == 5
    assert run_batch("m", inputs((2, 3, 8, 8)), None, DEFAULT_BATCH) == 2
    for declared, words in (
        (((),), "scalar"),
        ((("b", 3, "height", 8),), "open dimension 'height'"),
        (((2, 3),), "batches of 2"),
    ):
        with pytest.raises(InputError, match=words):
            run_batch("m", inputs(*declared), 4)


@pytest.mark.parametrize("fixed", [None, 1])
def test_outputs_that_are_one_for_all_examples_are_repeated(fixed: int | None) -> None:
    images = Examples.images(np.arange(10, dtype=np.float32).reshape(10, 1))

    def run(chunk: Examples[np.ndarray]) -> list[np.ndarray]:
        (values,) = chunk.arrays.values()
        return [values, np.arange(8.0).reshape(4, 2), np.float32(3), values * 2]

    # The last file says 1 over an axis that counts examples: it was exported with one.
    declared: list[Shape] = [("batch", 1), (4, 2), (), (1, 1)]
    values, constant, scalar, misdeclared = outputs_in_batches(images, fixed, run, declared, fixed)
    assert values.shape == misdeclared.shape == (10, 1) and scalar.shape == (10,)
    assert constant.shape == (10, 4, 2) and (constant == np.arange(8.0).reshape(4, 2)).all()
