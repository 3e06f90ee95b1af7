"""Pairs from files: the three ways to hand them in, and every way they can be unusable, named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvit_deploy.data.npz import read_npz
from qvit_deploy.data.pairs.files import PairSet, open_pair, open_pairs
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from tests.support.picture_folders import P, put

PATCH = 4


def edited(path: Path, value: int, spot: int | None = None) -> Path:
    """A grey 8 x 8 picture; with `spot`, its first patch has that value."""
    pixels = np.full((8, 8, 3), value, np.uint8)
    if spot is not None:
        pixels[:PATCH, :PATCH] = spot
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def greys(pairs: PairSet) -> list[tuple[int, int]]:
    return [(round(p.clean[0, 0, 0] * 255), round(p.corrupt[0, 0, 0] * 255)) for p in pairs]


@pytest.fixture
def suffixed(tmp_path: Path) -> Path:
    for name in ("cat", "dog.2", "dog.10"):
        edited(tmp_path / f"{name}.clean.png", 10 + len(name))
        edited(tmp_path / f"{name}.corrupt.png", 10 + len(name), 200)
    return tmp_path


def test_two_files(tmp_path: Path) -> None:
    pairs = open_pair(edited(tmp_path / "a.png", 10), edited(tmp_path / "b.bmp", 10, 90), P, PATCH)
    (pair,) = pairs
    assert (len(pairs), pair.name, pair.kind, pair.warnings) == (1, "a.png / b.bmp", "same-background", ())
    assert pair.changed_tokens.tolist() == [[True, False], [False, False]]
    assert (pair.label, pair.corrupt_label) == (None, None)


def test_two_unrelated_photos_are_allowed_with_a_warning(tmp_path: Path) -> None:
    (pair,) = open_pair(put(tmp_path / "a.png", 10), put(tmp_path / "b.png", 200), P, PATCH)
    assert pair.kind == "unrelated"
    assert "100% of the tokens differ: the two images are unrelated photos" in pair.warnings[0]


def test_a_folder_of_named_pairs(suffixed: Path) -> None:
    pairs = open_pairs(suffixed, P, PATCH)
    assert pairs.names == ("cat", "dog.2", "dog.10")
    assert greys(pairs) == [(13, 200), (15, 200), (16, 200)]
    assert greys(pairs) == greys(pairs)


def test_two_folders(tmp_path: Path) -> None:
    for i in (10, 9):
        edited(tmp_path / "clean" / f"{i}.png", i)
        edited(tmp_path / "corrupt" / f"{i}.bmp", i, 100 + i)
    pairs = open_pairs(tmp_path, P, PATCH)
    assert pairs.names == ("9", "10")
    assert greys(pairs) == [(9, 109), (10, 110)]


def arrays() -> dict[str, np.ndarray]:
    clean = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    corrupt = clean.copy()
    corrupt[:, :4, 4:] = 255 - corrupt[:, :4, 4:]
    return {"clean": clean, "corrupt": corrupt}


def save(path: Path, **members: np.ndarray) -> Path:
    np.savez(path, **members)
    return path


def test_an_archive(tmp_path: Path) -> None:
    path = save(tmp_path / "p.npz", **arrays(), labels=np.array([3, 1, 2]), corrupt_labels=np.array([0, 0, 9]))
    pairs = list(open_pairs(path, P, PATCH))
    assert [pair.name for pair in pairs] == ["p.npz[0]", "p.npz[1]", "p.npz[2]"]
    assert [(pair.label, pair.corrupt_label) for pair in pairs] == [(3, 0), (1, 0), (2, 9)]
    assert all(pair.changed_tokens.tolist() == [[False, True], [False, False]] for pair in pairs)
    unlabelled = next(iter(open_pairs(save(tmp_path / "q.npz", **arrays()), P, PATCH)))
    assert (unlabelled.label, unlabelled.corrupt_label) == (None, None)
    with pytest.raises(InputError, match="no array 'images'"):
        read_npz(path, "calib")


def test_a_grey_and_a_coloured_picture_are_a_pair(tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((8, 8), 10, np.uint8)).save(grey)
    assert len(open_pair(grey, edited(tmp_path / "rgb.png", 10, 90), P, PATCH)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corrupt": None}, "has no array 'corrupt'"),
        ({"clean": None}, "has no array 'clean'"),
        ({"corrupt": np.zeros((2, 8, 8), np.uint8)}, r"'clean' is \[3, 8, 8\] and 'corrupt' \[2, 8, 8\]"),
        ({"corrupt": np.zeros((3, 8, 9), np.uint8)}, "must have the same size"),
        ({"corrupt": np.zeros((3, 8, 8))}, "'corrupt' must be uint8"),
        ({"labels": np.array([1, 2])}, r"'labels' must be integers \[3\]"),
        ({"corrupt_labels": np.array([1, 2, -1])}, "'corrupt_labels' has the negative label -1"),
        ({"clean": np.array([{}, {}, {}])}, "Python objects, which are never loaded"),
        ({"corrupt": arrays()["clean"]}, r"pair p\.npz\[0\]: clean and corrupt are identical"),
    ],
)
def test_archives_that_are_not_pairs(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    members = {key: value for key, value in (arrays() | change).items() if value is not None}
    with pytest.raises(InputError, match=message):
        open_pairs(save(tmp_path / "p.npz", **members), P, PATCH)


def test_a_damaged_archive(tmp_path: Path) -> None:
    path = save(tmp_path / "p.npz", **arrays())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="is not an \\.npz archive"):
        open_pairs(path, P, PATCH)


def test_pictures_of_two_sizes(tmp_path: Path) -> None:
    clean, corrupt = put(tmp_path / "a.clean.png", 1), put(tmp_path / "a.corrupt.png", 2, size=(8, 10))
    with pytest.raises(InputError, match="pair a: the clean image is 8x8 pixels, the corrupt one 10x8"):
        open_pairs(tmp_path, P, PATCH)
    with pytest.raises(InputError, match=r"pair a\.clean\.png / a\.corrupt\.png: the clean image is 8x8"):
        open_pair(clean, corrupt, P, PATCH)


def test_identical_pictures(suffixed: Path) -> None:
    edited(suffixed / "dog.10.corrupt.png", 16)
    with pytest.raises(InputError, match=r"pair dog\.10: clean and corrupt are identical as the model sees them"):
        open_pairs(suffixed, P, PATCH)


def test_an_edit_outside_the_centre_crop_is_none(tmp_path: Path) -> None:
    pixels = np.full((12, 8, 3), 7, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.clean.png")
    pixels[0] = 99
    Image.fromarray(pixels).save(tmp_path / "a.corrupt.png")
    with pytest.raises(InputError, match=r"pair a: .* inside the centre crop"):
        open_pairs(tmp_path, P, PATCH)


def test_unreadable_pictures_are_named(suffixed: Path) -> None:
    broken = suffixed / "dog.2.corrupt.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError, match=r"dog\.2\.corrupt\.png cannot be used"):
        open_pairs(suffixed, P, PATCH)
    with pytest.raises(InputError, match=r"none\.png cannot be used: the file is gone"):
        open_pair(suffixed / "cat.clean.png", suffixed / "none.png", P, PATCH)


def test_pictures_without_a_partner(suffixed: Path) -> None:
    (suffixed / "cat.corrupt.png").unlink()
    with pytest.raises(InputError, match=r"one is missing for cat$"):
        open_pairs(suffixed, P, PATCH)


def test_two_candidates_for_one_picture(suffixed: Path) -> None:
    edited(suffixed / "cat.clean.bmp", 3)
    with pytest.raises(InputError, match=r"cat\.clean\.bmp and .*cat\.clean\.png are both the same image of pair cat"):
        open_pairs(suffixed, P, PATCH)


@pytest.mark.parametrize("name", ["cat.png", ".clean.png.png", "cat.cleaned.png"])
def test_a_picture_that_is_no_part_of_a_pair(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a.clean.png", 1)
    put(tmp_path / f"x{name}", 1)
    with pytest.raises(InputError, match="is not part of a pair: name pairs NAME"):
        open_pairs(tmp_path, P, PATCH)


def test_places_without_pairs(tmp_path: Path, suffixed: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no images"):
        open_pairs(empty, P, PATCH)
    for path in (tmp_path / "nowhere", suffixed / "cat.clean.png"):
        with pytest.raises(InputError, match="neither a folder of pairs nor an \\.npz"):
            open_pairs(path, P, PATCH)
    put(tmp_path / "classes" / "cat" / "a.png", 1)
    with pytest.raises(InputError, match="holds folders of images"):
        open_pairs(tmp_path / "classes", P, PATCH)


def test_links_to_folders_are_not_followed_and_those_to_files_are(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.png", 1)
    put(tmp_path / "pairs" / "clean" / "a.png", 1)
    (tmp_path / "pairs" / "corrupt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="symbolic link to a folder"):
        open_pairs(tmp_path / "pairs", P, PATCH)
    put(tmp_path / "named" / "a.clean.png", 1)
    (tmp_path / "named" / "a.corrupt.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    with pytest.raises(InputError, match="identical"):  # it was read
        open_pairs(tmp_path / "named", P, PATCH)


def test_an_input_that_is_not_whole_patches(suffixed: Path) -> None:
    with pytest.raises(InputError, match="whole 3x3 patches"):
        open_pairs(suffixed, P, 3)


def test_pairs_are_prepared_as_the_model_wants(suffixed: Path) -> None:
    preprocess = Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,), interpolation="nearest")
    pair = next(iter(open_pairs(suffixed, preprocess, PATCH)))
    assert pair.clean.shape == (3, 16, 16)
    assert pair.changed_tokens.sum() == 4
    assert pair.clean[0, 0, 0] == pytest.approx((13 / 255 - 0.5) / 0.25)
