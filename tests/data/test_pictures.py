"""Files that are pictures, and everything that only claims to be one."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from qvit_deploy.data.pictures import BadPictureError, as_array, check_header, decode
from qvit_deploy.errors import InputError
from tests.support.hostile_files import png_of_size

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3)).astype(np.uint8)


def encoded(format_, pixels=PIXELS):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats(tmp_path, format_):
    path = tmp_path / "a"
    path.write_bytes(encoded(format_))
    check_header(path)
    np.testing.assert_array_equal(decode(path), PIXELS)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats(tmp_path, format_):
    path = tmp_path / "a"
    path.write_bytes(encoded(format_))
    picture = decode(path)
    assert picture.dtype == np.uint8 and picture.shape == (12, 16, 3)


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("L", (6, 7)),
        ("LA", (6, 7)),
        ("1", (6, 7)),
        ("RGB", (6, 7, 3)),
        ("RGBA", (6, 7, 3)),
        ("P", (6, 7, 3)),
        ("CMYK", (6, 7, 3)),
    ],
)
def test_every_mode_becomes_grey_or_rgb(mode, shape):
    assert as_array(Image.new(mode, (7, 6))).shape == shape


def test_sixteen_bits_are_scaled_not_clipped():
    wide = np.array([[0, 257, 32896, 65535]], np.uint16)
    np.testing.assert_array_equal(as_array(Image.fromarray(wide)), [[0, 1, 128, 255]])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range(mode):
    with pytest.raises(InputError, match="no known range"):
        as_array(Image.new(mode, (2, 2)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, world", "not a JPEG, PNG"),
        (encoded("PNG")[:60], "corrupt or truncated"),
        (encoded("PNG")[:-30], "corrupt or truncated"),
        (encoded("JPEG")[:-20], "corrupt or truncated"),
        (encoded("JPEG")[: len(encoded("JPEG")) // 2], "corrupt or truncated"),
        (encoded("WEBP")[:40], "corrupt or truncated|not a JPEG, PNG"),
        (encoded("BMP")[:80], "corrupt or truncated"),
        (png_of_size(20_000, 20_000), "decompression bomb"),
        (png_of_size(10_000, 10_000), "decompression bomb"),  # Pillow itself only warns here
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a JPEG, PNG"),
    ],
)
def test_unusable_files_have_a_reason(tmp_path, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(BadPictureError, match=reason) as caught:
        decode(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert str(path) not in caught.value.reason


def test_bombs_are_refused_even_where_pillows_own_limit_is_off(tmp_path, monkeypatch):
    """Training code likes to set MAX_IMAGE_PIXELS to None for the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "a.png").write_bytes(png_of_size(20_000, 20_000))
    with pytest.raises(BadPictureError, match="decompression bomb"):
        decode(tmp_path / "a.png")


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(BadPictureError, match="the file is gone"):
        decode(tmp_path / "a.png")


def test_the_header_check_is_cheap_but_sees_what_is_no_picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG")[:-30])
    check_header(path)
    path.write_bytes(b"text")
    with pytest.raises(BadPictureError):
        check_header(path)


def test_random_damage_never_escapes_as_another_exception(tmp_path):
    """Decoders raise SyntaxError, IndexError, struct.error and more on bad bytes; all must come out as one type."""
    rng = np.random.default_rng(1)
    path = tmp_path / "a"
    for format_ in ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "PPM"):
        whole = encoded(format_)
        for _ in range(60):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 4):
                damaged[place] = rng.integers(256)
            path.write_bytes(bytes(damaged[: rng.integers(1, len(whole) + 1)]))
            with contextlib.suppress(BadPictureError):
                assert decode(path).dtype == np.uint8
