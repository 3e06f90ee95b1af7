"""`.npz` archives: the layouts that are read, and archives made to hurt."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from qvit_deploy.data import images as images_module
from qvit_deploy.data.images import open_images
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from tests.support.absent_libraries import without
from tests.support.hostile_files import unpacking_to

P = Preprocess(input_size=(3, 4, 4), mean=(0.0,), std=(1.0,))
GREY = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)


def saved(tmp_path, **arrays):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **arrays)
    return str(path)


def test_plain_layout_without_pillow(tmp_path, monkeypatch):
    without(monkeypatch, "PIL")
    images = open_images(saved(tmp_path, images=GREY, labels=np.arange(6, dtype=np.uint8)), P, minimum=2)
    assert images.labels.dtype == np.int64 and images.labels.tolist() == list(range(6))
    assert images.names[5] == "images[5]"
    (examples,) = images.batches(6)
    batch = examples.arrays["image"]
    assert batch.shape == (6, 3, 4, 4)
    np.testing.assert_array_equal(batch[:, 1], GREY.astype(np.float32) / np.float32(255))


def test_colour_and_no_labels(tmp_path):
    images = open_images(saved(tmp_path, images=np.zeros((2, 4, 4, 3), np.uint8)), P)
    assert images.labels is None and next(images.batches(2)).arrays["image"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize("split", ["calib", "test"])
def test_split_layout(tmp_path, split):
    """The layout of shared/reference/fashion_mnist_dev.npz and of the demo."""
    path = saved(
        tmp_path,
        calib_images=GREY[:2],
        calib_labels=np.array([0, 1]),
        test_images=GREY[2:],
        test_labels=np.array([1, 1, 0, 0]),
        class_names=np.array(["shirt", "bag"]),
    )
    images = open_images(path, P, split=split)
    assert images.labels.tolist() == ([0, 1] if split == "calib" else [1, 1, 0, 0])
    assert images.class_names == ("shirt", "bag")
    assert images.names[0] == f"{split}_images[0]"


def test_limit_is_balanced(tmp_path):
    path = saved(tmp_path, images=GREY, labels=np.array([0, 0, 0, 0, 1, 1]))
    images = open_images(path, P, limit=4, seed=1)
    assert np.bincount(images.labels).tolist() == [2, 2]
    picked = [int(name[7:-1]) for name in images.names]
    np.testing.assert_array_equal(
        np.concatenate([b.arrays["image"] for b in images.batches(3)])[:, 0] * 255, GREY[picked]
    )


def test_the_demo(tmp_path, monkeypatch):
    assert len(open_images("demo:fashion-mnist", P, limit=20)) == 20
    # The files of this installation are not taken away for a test.
    monkeypatch.setitem(images_module._DEMOS, "fashion-mnist", tmp_path / "gone.npz")
    with pytest.raises(InputError, match="missing from this installation"):
        open_images("demo:fashion-mnist", P)
    with pytest.raises(InputError, match="no data set 'demo:cifar'; the built-in one is demo:fashion-mnist"):
        open_images("demo:cifar", P)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": GREY}, r"has no array 'images' or 'calib_images' \(it has pixels\)"),
        ({"test_images": GREY}, r"it has test_images"),
        ({"images": GREY.astype(np.float32)}, r"must be uint8 .* got float32 \[6, 4, 4\]; store the raw 0..255"),
        ({"images": GREY.astype(np.int64)}, "got int64"),
        ({"images": GREY[0]}, r"got uint8 \[4, 4\]"),
        ({"images": GREY[:, None]}, r"got uint8 \[6, 1, 4, 4\]; channels go last"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, r"got uint8 \[2, 4, 4, 4\]$"),
        ({"images": GREY[:0]}, "is empty"),
        ({"images": GREY[:, :0]}, "is empty"),
        ({"images": np.array([GREY, None], dtype=object)}, "holds Python objects, which are never loaded"),
        ({"images": GREY, "labels": np.array([{}] * 6)}, "'labels' holds Python objects"),
        ({"images": GREY, "labels": np.zeros(5, int)}, r"integers \[6\], one per image, got int64 \[5\]"),
        ({"images": GREY, "labels": np.zeros(6)}, "got float64"),
        ({"images": GREY, "labels": np.array([0, 0, 0, 0, 0, -1])}, "negative label -1"),
        ({"images": GREY, "class_names": np.arange(3)}, "'class_names' must be strings"),
        ({"images": GREY, "labels": np.arange(6), "class_names": np.array(["a"])}, "label 5 has no entry"),
    ],
)
def test_wrong_arrays(tmp_path, arrays, message):
    path = saved(tmp_path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        open_images(path, P)
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_not_an_archive(tmp_path):
    path = tmp_path / "data.npz"
    for content in (b"", b"hello", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"is not an \.npz archive"):
            open_images(str(path), P)


def test_every_truncation_and_flipped_byte_is_an_input_error(tmp_path):
    whole = saved(tmp_path, images=GREY, labels=np.arange(6))
    content = (tmp_path / "data.npz").read_bytes()
    for cut in range(0, len(content), 7):
        (tmp_path / "data.npz").write_bytes(content[:cut])
        with pytest.raises(InputError):
            open_images(whole, P)
    for place in range(len(content)):
        (tmp_path / "data.npz").write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            open_images(whole, P)
        except InputError as error:
            assert "\n" not in str(error)


def member(shape, body, dtype="|u1"):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + body


def test_a_header_that_promises_more_than_there_is(tmp_path):
    """numpy would allocate the promise first."""
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("images.npy", member((10**9, 1000, 1000), b"\0" * 50))
    with pytest.raises(InputError, match="'images' is truncated"):
        open_images(str(tmp_path / "data.npz"), P)


def test_a_bomb_is_refused_before_it_goes_off(tmp_path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", member((2000, 32, 32), b"\0" * 2000 * 1024))
    path.write_bytes(unpacking_to(path.read_bytes(), 2**31))
    with pytest.raises(InputError, match=r"'images' unpacks to 2\.1 GB: a decompression bomb"):
        open_images(str(tmp_path / "data.npz"), P)


def test_strips_are_refused_when_opening(tmp_path):
    path = saved(tmp_path, images=np.zeros((2, 1, 60_000), np.uint8))
    with pytest.raises(InputError, match="crop it first"):
        open_images(path, P.model_copy(update={"input_size": (3, 224, 224)}))


def test_a_file_without_permission(tmp_path):
    import os

    path = saved(tmp_path, images=GREY)
    (tmp_path / "data.npz").chmod(0)
    if os.access(path, os.R_OK):
        return  # root reads everything
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        open_images(path, P)
