from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.opening import open_examples
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface, inputs_of
from tests.support.picture_folders import P, put

RNG = np.random.default_rng(0)
IMAGE = ("image", ("batch", 3, 8, 8), ir.DataType.FLOAT)
ONE = inputs_of([IMAGE])
SEVERAL = inputs_of(
    [
        IMAGE,
        ("ids", ("batch", 4), ir.DataType.INT64),
        ("scale", (2,), ir.DataType.FLOAT),
        ("seen", ("batch", 4), ir.DataType.BOOL),
    ]
)
IMAGES = RNG.standard_normal((5, 3, 8, 8)).astype(np.float32)


def arrays(**changed):
    values = {"ids": np.arange(20).reshape(5, 4), "scale": np.ones(2, np.float32), "seen": np.ones((5, 4), np.int32)}
    return {"images": IMAGES, **values, **changed}


def opened(path, inputs=ONE, preprocess=None, **options):
    return open_examples(str(path), inputs, preprocess, "the model", **options)


def saved(tmp_path, **values):
    np.savez(tmp_path / "data.npz", **values)
    return tmp_path / "data.npz"


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_tensors_are_used_as_they_are(tmp_path, dtype, last):
    values = IMAGES.astype(dtype)
    np.save(tmp_path / "x.npy", np.moveaxis(values, 1, -1) if last else values)
    examples = opened(tmp_path / "x.npy")
    assert [len(b) for b in examples.batches(3)] == [3, 2]
    got = np.concatenate([b.arrays["image"] for b in examples.batches(3)])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, values.astype(np.float32))


def test_a_folder_has_an_example_in_each_file(tmp_path):
    for i in (2, 10, 1):
        np.save(tmp_path / f"{i}.npy", IMAGES[i % 5] if i != 10 else IMAGES[:1])
    examples = opened(tmp_path)
    assert examples.names == ("1.npy", "2.npy", "10.npy")
    np.testing.assert_array_equal(next(examples.batches(3)).arrays["image"], IMAGES[[1, 2, 0]])
    put(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"mixes ready tensors \(1\.npy\) with images \(a\.png\)"):
        opened(tmp_path)


def test_every_input_has_an_array_of_its_name(tmp_path):
    examples = opened(saved(tmp_path, **arrays(), labels=np.arange(5)), SEVERAL)
    batch = next(examples.batches(2))
    assert {n: (v.dtype.name, v.shape) for n, v in batch.feeds.items()} == {
        "image": ("float32", (2, 3, 8, 8)),
        "ids": ("int64", (2, 4)),
        "seen": ("bool", (2, 4)),
        "scale": ("float32", (2,)),
    }
    part = examples.subset(2, 0)
    assert part.labels is not None and len(part.labels) == 2 and part.digest != examples.digest
    assert next(part.batches(2)).arrays["ids"].tolist() == [list(range(4 * i, 4 * i + 4)) for i in part.labels]
    assert len(examples.without(part)) == 3


def test_pictures_beside_other_inputs_are_prepared(tmp_path):
    pixels = RNG.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    examples = opened(saved(tmp_path, **arrays(images=pixels)), SEVERAL, P)
    assert isinstance(examples, ImageSet)
    batch = next(examples.take(np.array([4, 1])).batches(2))
    np.testing.assert_array_equal(batch.arrays["image"][0], P.apply(pixels[4]))
    assert batch.arrays["ids"].tolist() == [[16, 17, 18, 19], [4, 5, 6, 7]] and batch.shared["scale"].shape == (2,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": np.zeros((5, 3), int)}, r"'ids' must be integers \[N, 4\], got int64 \[5, 3\]"),
        ({"ids": np.zeros((5, 4))}, "'ids' must be integers"),
        ({"ids": np.zeros((4, 4), int)}, r"different numbers of examples \(image 5, ids 4, seen 5\)"),
        ({"scale": np.ones(3, np.float32)}, r"'scale' must be floats \[2\], got float32 \[3\]"),
        ({"seen": np.full((5, 4), 2)}, "values that bool does not hold"),
        ({"images": np.full_like(IMAGES, np.nan)}, "holds NaN or infinity"),
        ({"images": IMAGES[:, :2]}, r"'image' must be floats \[N, 3, 8, 8\], got float32 \[5, 2, 8, 8\]"),
        ({"images": IMAGES.astype(np.int32)}, "store the values that the model takes"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        opened(saved(tmp_path, **arrays(**changed)), SEVERAL)


def test_inputs_without_values(tmp_path):
    values = arrays()
    del values["seen"]
    with pytest.raises(InputError, match=r"no array for the input 'seen' \(it has ids, images, scale\)"):
        opened(saved(tmp_path, **values), SEVERAL)
    np.save(tmp_path / "x.npy", IMAGES)
    with pytest.raises(InputError, match=r"several inputs \(image, ids, scale, seen\); pass an \.npz"):
        opened(tmp_path / "x.npy", SEVERAL)
    put(tmp_path / "pictures" / "a.png")
    with pytest.raises(InputError, match="takes ids, scale, seen besides image"):
        opened(tmp_path / "pictures", SEVERAL, P)


@pytest.mark.parametrize("pictures", [False, True])
@pytest.mark.parametrize("name", ["pixel_values", "image", "images", "calib_pixel_values"])
def test_the_image_goes_by_the_name_of_the_models_own_file(tmp_path, name, pictures):
    inputs = Interface(ONE, ()).with_given_name("pixel_values").inputs
    pixels = RNG.integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    examples = opened(saved(tmp_path, **{name: pixels if pictures else IMAGES}), inputs, P if pictures else None)
    batch = next(examples.batches(5)).arrays["image"]
    np.testing.assert_array_equal(batch, np.stack([P.apply(p) for p in pixels]) if pictures else IMAGES)


def test_an_array_that_is_missing_goes_by_the_name_of_the_file(tmp_path):
    inputs = Interface(SEVERAL, ()).with_given_name("pixel_values").inputs
    values = arrays()
    del values["images"]
    with pytest.raises(InputError, match=r"no array for the input 'pixel_values' \(it has ids"):
        opened(saved(tmp_path, **values), inputs)


def test_pictures_need_preprocessing(tmp_path):
    put(tmp_path / "a.png")
    with pytest.raises(InputError, match="does not say how its images are prepared"):
        opened(tmp_path)


def test_files_that_lie(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, IMAGES)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match="is truncated"):
        opened(path)
    path.write_bytes(b"x" * 10)
    with pytest.raises(InputError, match=r"is not a \.npy file"):
        opened(path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="Python objects, which are never loaded"):
        opened(path)
