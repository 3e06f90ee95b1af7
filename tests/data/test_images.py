"""Opening DATA: folders, class folders, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qvit_deploy.data.images import open_images
from qvit_deploy.errors import InputError
from tests.support.absent_libraries import without
from tests.support.picture_folders import P, put, values


def test_flat_folder_in_natural_order(flat):
    images = open_images(str(flat), P)
    assert images.names == ("img1.png", "img2.png", "img10.png")
    assert values(images) == [1, 2, 10]
    assert images.labels is None and images.class_names is None and images.skipped == ()


def test_batches_are_float_under_the_name_of_the_image_input(flat):
    batches = list(open_images(str(flat), P).batches(2))
    assert [b.arrays["image"].shape for b in batches] == [(2, 3, 8, 8), (1, 3, 8, 8)]
    assert all(list(b.feeds) == ["image"] and b.feeds["image"].dtype == np.float32 for b in batches)
    with pytest.raises(InputError, match="batch size"):
        next(open_images(str(flat), P).batches(0))


def test_class_folders_are_labels(classes):
    put(classes / "eel" / "deeper" / "99.png", 199)
    images = open_images(str(classes), P)
    assert images.class_names == ("cat", "dog", "eel")
    assert images.labels.dtype == np.int64
    assert np.bincount(images.labels).tolist() == [4, 7, 11]
    assert images.names[0] == "cat/0.png" and images.names[-1] == "eel/deeper/99.png"


def test_numbered_classes_and_empty_classes_keep_their_label(tmp_path):
    for name in ("0", "2", "10"):
        put(tmp_path / name / "a.png")
    (tmp_path / "1").mkdir()
    images = open_images(str(tmp_path), P)
    assert images.class_names == ("0", "1", "2", "10")
    assert images.labels.tolist() == [0, 2, 3]


def test_files_that_are_no_images_and_hidden_files_are_ignored(flat):
    (flat / "README.txt").write_text("hello")
    (flat / ".hidden.png").write_text("not an image")
    (flat / "._img1.png").write_text("what macOS leaves behind")
    put(flat / ".thumbnails" / "a.png")
    (flat / "notes").mkdir()
    put(flat / "UPPER.JPG")
    assert open_images(str(flat), P).names == ("UPPER.JPG", "img1.png", "img2.png", "img10.png")


def test_streaming_reads_nothing_ahead(flat):
    batches = open_images(str(flat), P).batches(1)
    next(batches)
    (flat / "img2.png").unlink()
    with pytest.raises(InputError, match=r"img2\.png cannot be used: the file is gone"):
        next(batches)


# --- what cannot be used


def test_missing_path_and_things_that_are_neither(tmp_path):
    with pytest.raises(InputError, match=r"no such image folder or \.npz file: "):
        open_images(str(tmp_path / "nowhere"), P)
    for name in ("photo.png", "data.bin"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(InputError, match=r"neither a folder of images nor an \.npz"):
            open_images(str(tmp_path / name), P)
    for odd in ("x" * 5000, "~nobody-by-this-name/x", "a\0b", ""):
        with pytest.raises(InputError):
            open_images(odd, P)


def test_folder_without_images(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        open_images(str(tmp_path), P)


def test_images_beside_class_folders(classes):
    put(classes / "stray.png")
    with pytest.raises(InputError, match=r"mixes images \(stray.png\) with class folders"):
        open_images(str(classes), P)


def test_corrupt_images_are_named_before_the_work_starts(flat):
    whole = put(flat / "img3.png").read_bytes()
    (flat / "img3.png").write_bytes(whole[:44])
    (flat / "img4.jpg").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        open_images(str(flat), P)
    message = str(caught.value)
    assert message.startswith(f"2 of the images in {flat} cannot be used (img3.png: corrupt or truncated")
    assert "img4.jpg: the file is empty" in message and "--skip-bad" in message and "\n" not in message


def test_skip_bad_leaves_them_out_and_lists_them(flat):
    (flat / "img3.png").write_bytes(b"junk")
    images = open_images(str(flat), P, skip_bad=True)
    assert values(images) == [1, 2, 10]
    assert [name for name, _ in images.skipped] == ["img3.png"]


def test_skip_bad_draws_replacements(flat):
    for i in range(20, 30):
        (flat / f"img{i}.png").write_bytes(b"junk")
    for seed in range(5):
        assert values(open_images(str(flat), P, limit=3, seed=seed, skip_bad=True)) == [1, 2, 10]


def test_a_limit_looks_only_at_what_it_draws(flat):
    """A folder of a million images must not be decoded to take two of them."""
    (flat / "img3.png").write_bytes(b"junk")
    outcomes = set()
    for seed in range(12):
        try:
            outcomes.add(len(open_images(str(flat), P, limit=2, seed=seed)))
        except InputError as error:
            outcomes.add(str(error)[:1])
    assert outcomes == {2, "1"}


def test_all_bad_is_an_error(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"junk")
    with pytest.raises(InputError, match=r"none of the 2 images .* \(first: a.png: not a JPEG"):
        open_images(str(tmp_path), P, skip_bad=True)


def test_truncation_surfaces_at_the_batch_for_a_test_set(flat):
    """A large test set is not decoded twice; what only decoding shows is named when it comes up."""
    path = put(flat / "img3.png")
    path.write_bytes(path.read_bytes()[:44])
    images = open_images(str(flat), P, split="test")
    with pytest.raises(InputError, match=r"img3\.png cannot be used: corrupt or truncated"):
        list(images.batches(4))
    (flat / "img4.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"img4\.png: not a JPEG"):
        open_images(str(flat), P, split="test")


def test_a_strip_is_found_when_opening(flat):
    put(flat / "strip.png", size=(1, 30_000))
    with pytest.raises(InputError, match=r"strip\.png: a 30000x1 image would be resized to 6720000x224; crop it"):
        open_images(str(flat), P.model_copy(update={"input_size": (3, 224, 224)}))


def test_one_image_is_too_few_for_calibration(tmp_path):
    put(tmp_path / "a.png")
    assert len(open_images(str(tmp_path), P)) == 1
    with pytest.raises(InputError, match=r"at least 2 images are needed, .* gives 1"):
        open_images(str(tmp_path), P, minimum=2)


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_must_be_positive(flat, limit):
    with pytest.raises(InputError, match="at least 1"):
        open_images(str(flat), P, limit=limit)


def test_without_pillow(flat, monkeypatch):
    without(monkeypatch, "PIL")
    with pytest.raises(InputError, match="needs Pillow: pip install"):
        open_images(str(flat), P, skip_bad=True)


# --- links and special files


@pytest.fixture
def linked(flat, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    return flat, put(outside / "secret.png", 77)


def test_a_folder_of_links_to_files_elsewhere_is_read(linked, tmp_path_factory):
    flat, other = linked
    (flat / "link.png").symlink_to(other)
    assert 77 in values(open_images(str(flat), P))
    links = tmp_path_factory.mktemp("links")
    for file in flat.iterdir():
        (links / file.name).symlink_to(file)
    assert values(open_images(str(links), P)) == values(open_images(str(flat), P))


def test_links_that_lead_back_to_themselves_are_named(flat):
    (flat / "loop.png").symlink_to(flat / "loop.png")
    with pytest.raises(InputError, match=r"loop\.png: a symbolic link that leads back to itself"):
        open_images(str(flat), P)


def test_a_link_inside_the_folder_and_a_linked_root_are_followed(linked, tmp_path_factory):
    flat, _ = linked
    (flat / "again.png").symlink_to(flat / "img10.png")
    root = tmp_path_factory.mktemp("links") / "root"
    root.symlink_to(flat)
    assert sorted(values(open_images(str(root), P))) == [1, 2, 10, 10]


def test_linked_folders_are_not_followed(classes, linked):
    _, secret = linked
    for image in classes.glob("*.png"):
        image.unlink()
    (classes / "fox").symlink_to(secret.parent)
    (classes / "cat" / "loop").symlink_to(classes)
    images = open_images(str(classes), P, skip_bad=True)
    assert images.class_names == ("cat", "dog", "eel")
    assert sorted(name for name, _ in images.skipped) == ["cat/loop", "fox"]


def test_broken_links_and_pipes(flat):
    (flat / "gone.png").symlink_to(flat / "nothing.png")
    os.mkfifo(flat / "pipe.png")  # opening it would wait for ever
    assert dict(open_images(str(flat), P, skip_bad=True).skipped) == {
        "gone.png": "a broken symbolic link",
        "pipe.png": "not a regular file",
    }


def test_importing_needs_neither_torch_nor_pillow():
    code = (
        "import sys, qvit_deploy.data.images, qvit_deploy.artifacts.bundle; "
        "print(sorted({'torch', 'timm', 'PIL', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout == "[]\n"
