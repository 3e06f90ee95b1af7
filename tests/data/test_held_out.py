"""Images to calibrate on and others to measure on, from one DATA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qvit_deploy.data.images as images_module
from qvit_deploy.data.held_out import HELD_OUT_IMAGES, fitted_count, open_apart
from qvit_deploy.data.images import open_drawn, open_images
from qvit_deploy.errors import InputError
from tests.support.picture_folders import P, put, values


def apart(
    path: Path, fitted: int, held_out: int = HELD_OUT_IMAGES, skip_bad: bool = False
) -> tuple[list[int], list[int]]:
    first, rest = open_apart(
        lambda limit: open_drawn(str(path), P, limit=limit, seed=3, skip_bad=skip_bad, minimum=2), fitted, held_out
    )
    return values(first), [] if rest is None else values(rest)


def flat_folder(path: Path, count: int) -> Path:
    for i in range(count):
        put(path / f"{i:02}.png", i)
    return path


@pytest.mark.parametrize(
    ("available", "wanted", "fitted"),
    [
        (1000, 64, 64),
        (68, 64, 64),  # as few as 4 others
        (67, 64, 51),  # a quarter of all is kept apart
        (64, 64, 48),
        (40, 64, 30),
        (18, 16, 14),  # at least 4 are
        (16, 16, 12),
        (16, 12, 12),
        (2000, 2000, 1936),  # no more than are measured on
        (15, 64, 15),  # too few to keep any apart
        (15, 14, 14),
        (2, 64, 2),
    ],
)
def test_a_share_is_kept_apart_where_no_others_are_left(available: int, wanted: int, fitted: int) -> None:
    assert fitted_count(available, wanted) == fitted


def test_the_images_to_calibrate_on_are_those_drawn_alone(classes: Path) -> None:
    first, rest = open_apart(
        lambda limit: open_drawn(str(classes), P, limit=limit, seed=4, skip_bad=False, minimum=2), 9, 64
    )
    alone = open_images(str(classes), P, limit=9, seed=4)
    assert first.names == alone.names and first.digest == alone.digest
    assert rest is not None and len(rest) == 21 - 9 and not set(rest.names) & set(first.names)


def test_an_array_is_divided_as_a_folder_is(tmp_path: Path) -> None:
    pixels = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    np.savez(tmp_path / "data.npz", images=pixels)
    folder = flat_folder(tmp_path / "folder", 20)
    assert apart(tmp_path / "data.npz", 12) == apart(folder, 12)


def test_how_many_are_measured_on_does_not_change_what_is_calibrated_on(tmp_path: Path) -> None:
    folder = flat_folder(tmp_path, 90)
    first, rest = apart(folder, 8)
    more, others = apart(folder, 8, 256)
    assert more == first and len(rest) == 64 and len(others) == 82 and set(rest) < set(others)


def test_every_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = flat_folder(tmp_path, 20)
    decoded: list[Path] = []
    decode = images_module.decode
    # Watches the real one: how often a file is decoded shows in no result.
    monkeypatch.setattr(images_module, "decode", lambda path: decoded.append(path) or decode(path))
    open_apart(lambda limit: open_drawn(str(folder), P, limit=limit, seed=0, skip_bad=False, minimum=2), 8, 64)
    assert len(decoded) == len(set(decoded)) == 20


def test_images_that_cannot_be_read_are_left_out_of_both_parts_on_request_only(tmp_path: Path) -> None:
    folder = flat_folder(tmp_path, 17)
    (folder / "16.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"16\.png.*--skip-bad-images"):
        apart(folder, 8)
    first, rest = apart(folder, 8, skip_bad=True)
    assert len(first) == 8 and sorted(first + rest) == list(range(16))


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2 images are needed"):
        apart(flat_folder(tmp_path, 1), 8)
