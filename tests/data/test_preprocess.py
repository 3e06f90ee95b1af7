"""`Preprocess` against timm's own transform, torch's resize, and arithmetic by hand."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import inputs_of
from tests.support.absent_libraries import without

UNIT = {"mean": (0.0,), "std": (1.0,)}


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def photo(height, width):
    """Smooth and coloured, as photographs are: noise would only test rounding."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + k) * np.cos(y / 11 - k) for k in range(3)]
    return (np.stack(waves, -1) * 127 + 128).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
@pytest.mark.parametrize(
    ("size", "source", "crop_pct"),
    [
        ((48, 48), (90, 131), 0.875),
        ((48, 48), (131, 90), 1.0),
        ((48, 64), (90, 131), 0.9),
        ((48, 48), (20, 31), 0.95),
    ],
)
def test_agrees_with_timm(interpolation, size, source, crop_pct):
    """Up to timm's rounding to 8 bits, which happens after each of the two resize passes."""
    transforms = pytest.importorskip("timm.data")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    reference = transforms.create_transform(
        (3, *size), interpolation=interpolation, crop_pct=crop_pct, mean=mean, std=std
    )
    picture = photo(*source)
    ours = Preprocess(input_size=(3, *size), mean=mean, std=std, interpolation=interpolation, crop_pct=crop_pct)
    error = np.abs(ours.apply(picture) - reference(Image.fromarray(picture)).numpy()) * np.array(std)[:, None, None]
    assert error.max() * 255 <= (0.01 if interpolation == "nearest" else 1.51)


def test_agrees_with_torch_antialiased_bicubic():
    """The reference models were trained with torch's resize of float images, 28 -> 112, then a clamp."""
    torch = pytest.importorskip("torch")
    grey = noise(28, 28, 1)
    ours = Preprocess(input_size=(3, 112, 112), color="grey", interpolation="bicubic", **UNIT).apply(grey)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(grey)[None, None] / 255, size=(112, 112), mode="bicubic", antialias=True
    ).clamp(0, 1)
    np.testing.assert_allclose(ours[0], theirs[0, 0].numpy(), atol=2e-6)
    assert (ours[0] == ours[1]).all() and (ours[0] == ours[2]).all()


def test_same_size_is_exact_and_needs_no_pillow(monkeypatch):
    without(monkeypatch, "PIL")
    picture = noise(8, 10)
    out = Preprocess(input_size=(3, 8, 10), mean=(0.5,), std=(0.25,)).apply(picture)
    expected = (picture.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
    assert out.dtype == np.float32 and out.flags.c_contiguous
    np.testing.assert_array_equal(out, expected)


def test_resizing_without_pillow_says_what_to_install(monkeypatch):
    without(monkeypatch, "PIL")
    with pytest.raises(InputError, match="pip install pillow"):
        Preprocess(input_size=(3, 8, 8), **UNIT).apply(noise(9, 9))


def test_overshoot_is_clamped():
    edge = np.zeros((20, 20), np.uint8)
    edge[:, 10:] = 255
    out = Preprocess(input_size=(1, 40, 40), color="grey", interpolation="lanczos", **UNIT).apply(edge)
    assert out.min() == 0.0 and out.max() == 1.0


def test_resize_does_not_round_to_8_bits():
    ramp = np.tile(np.arange(2, dtype=np.uint8), (2, 1))
    out = Preprocess(input_size=(1, 16, 16), color="grey", interpolation="bilinear", **UNIT).apply(ramp)
    assert len(np.unique(out)) > 4


def test_colours():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 100
    grey = np.full((4, 4), 100, np.uint8)
    luma = Preprocess(input_size=(3, 4, 4), color="grey", **UNIT).apply(red)
    np.testing.assert_allclose(luma, 0.299 * 100 / 255, rtol=1e-6)
    for color, channels in (("rgb", 3), ("grey", 3), ("grey", 1), ("grey", 2)):
        out = Preprocess(input_size=(channels, 4, 4), color=color, **UNIT).apply(grey)
        assert out.shape == (channels, 4, 4)
        np.testing.assert_array_equal(out, np.float32(100) / np.float32(255))


def test_statistics_per_channel():
    out = Preprocess(input_size=(3, 2, 2), mean=(0.1, 0.2, 0.3), std=(1, 2, 4)).apply(np.zeros((2, 2), np.uint8))
    np.testing.assert_allclose(out[:, 0, 0], [-0.1, -0.1, -0.075], rtol=1e-6)


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    crop_pct=st.floats(0.3, 1.0),
)
def test_any_picture_fits_any_input(height, width, size, crop_pct):
    out = Preprocess(input_size=(3, *size), crop_pct=crop_pct, **UNIT).apply(noise(height, width))
    assert out.shape == (3, *size)
    assert np.isfinite(out).all()


def test_a_strip_that_would_explode_is_refused():
    with pytest.raises(InputError, match="100000x1 image would be resized to 22400000x224"):
        Preprocess(input_size=(3, 224, 224), **UNIT).apply(np.zeros((1, 100_000), np.uint8))


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4), (4, 4, 1), (1, 4, 4, 3)])
def test_wrong_shapes(shape):
    with pytest.raises(InputError, match=r"must be uint8 \[H, W\] or \[H, W, 3\]"):
        Preprocess(input_size=(3, 4, 4), **UNIT).apply(np.zeros(shape, np.uint8))


def test_wrong_dtype():
    with pytest.raises(InputError, match="got float32"):
        Preprocess(input_size=(3, 4, 4), **UNIT).apply(np.zeros((4, 4), np.float32))


GOOD = {"input_size": [3, 8, 8], "mean": [0.5], "std": [0.5]}


def test_from_file_round_trip(tmp_path):
    path = tmp_path / "p.json"
    wanted = Preprocess(input_size=(3, 8, 8), mean=(0.5,), std=(0.5,), interpolation="lanczos", crop_pct=0.9)
    path.write_text(wanted.model_dump_json())
    assert Preprocess.from_file(path) == wanted
    path.write_text(json.dumps(GOOD))
    assert Preprocess.from_file(path).crop_pct == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.5, 0.5]}, "mean needs 1 or 3 values"),
        ({"std": [0]}, r"std.0: Input should be greater than 0"),
        ({"std": [float("nan")]}, "std.0"),
        ({"mean": [float("inf")]}, "mean.0"),
        ({"input_size": [3, 0, 8]}, "input_size.1"),
        ({"input_size": [8, 8]}, "input_size"),
        ({"input_size": [1, 8, 8]}, 'color "rgb" needs 3 channels'),
        ({"crop_pct": 0}, "crop_pct"),
        ({"crop_pct": 1.1}, "crop_pct"),
        ({"interpolation": "area"}, "interpolation"),
        ({"colour": "grey"}, "colour: Extra inputs are not permitted"),
        ({"std": [0], "crop_pct": 0}, "std.0: Input should be .* than 0; crop_pct: Input should be .* to 0.01$"),
    ],
)
def test_from_file_names_the_bad_field(tmp_path, change, message):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(InputError, match=message) as caught:
        Preprocess.from_file(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_from_file_that_is_no_json_object(tmp_path, content):
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"p\.json"):
        Preprocess.from_file(path)


def test_from_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        Preprocess.from_file(tmp_path / "p.json")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory"):
        Preprocess.from_file(tmp_path)


def test_frozen():
    preprocess = Preprocess(input_size=(3, 8, 8), **UNIT)
    with pytest.raises(ValidationError):
        preprocess.crop_pct = 0.5


@pytest.mark.parametrize("color", ["rgb", "grey"])
@pytest.mark.parametrize("size", [(20, 24), (16, 16)])
def test_a_model_that_normalizes_itself_gets_the_nearest_pixels(color, size):
    channels = 3 if color == "rgb" else 1
    ours = Preprocess(input_size=(channels, 16, 16), mean=(0.5,), std=(0.25,), color=color)
    (image,) = inputs_of([("image", ("batch", channels, 16, 16), ir.DataType.UINT8)])
    picture = noise(*size)
    pixels = ours.taken_by(image).apply(picture)
    assert pixels.dtype == np.uint8 and pixels.shape == (channels, 16, 16)
    error = np.abs(ours.normalized(pixels) - ours.apply(picture)).max() * 0.25 * 255
    assert error <= 0.5001
    if size == (16, 16) and color == "rgb":
        np.testing.assert_array_equal(pixels, picture.transpose(2, 0, 1))
        np.testing.assert_array_equal(ours.normalized(pixels), ours.apply(picture))


def test_a_float_input_is_prepared_as_ever():
    ours = Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,))
    (image,) = inputs_of([("image", ("batch", 3, 16, 16), ir.DataType.FLOAT)])
    assert ours.taken_by(image) is ours
