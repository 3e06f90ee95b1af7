from __future__ import annotations

import numpy as np
import pytest
import torch

from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples, concatenated


def batch() -> Examples[np.ndarray]:
    return Examples({"image": np.arange(6).reshape(3, 2), "ids": np.array([7, 8, 9])}, {"scale": np.ones(4)})


def test_the_length_is_that_of_the_examples_and_parts_keep_what_is_shared() -> None:
    rest = batch()[1:]
    assert len(batch()) == 3 and len(rest) == 2
    assert rest.arrays["image"].tolist() == [[2, 3], [4, 5]] and rest.arrays["ids"].tolist() == [8, 9]
    assert rest.shared["scale"].shape == (4,)
    assert batch().at([2, 0]).arrays["ids"].tolist() == [9, 7]


def test_parts_join_to_the_whole() -> None:
    whole = concatenated([batch()[:1], batch()[1:]], np.concatenate)
    assert whole.arrays["ids"].tolist() == [7, 8, 9] and len(whole.feeds["scale"]) == 4


def test_examples_of_torch_repeat_from_the_first_on() -> None:
    examples = batch().map(torch.from_numpy).cycled(5)
    assert isinstance(examples.shared["scale"], torch.Tensor)
    assert examples.arrays["ids"].tolist() == [7, 8, 9, 7, 8]


def test_inputs_get_the_values_of_their_names() -> None:
    assert list(batch().feeds_for(["ids", "scale", "image"])) == ["ids", "scale", "image"]
    with pytest.raises(InputError, match="input 'mask' has no values; the data has image, ids, scale"):
        batch().feeds_for(["ids", "mask"])


def test_the_only_input_takes_the_only_value() -> None:
    only = Examples.images(np.zeros((2, 3)))
    assert only.feeds_for(["pixel_values"])["pixel_values"] is only.arrays["image"]
