"""Pairs made of the shipped pictures: tokens stay aligned, classes differ, and what is doubtful says so."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from qvit_deploy.data.images import ImageSet, open_images
from qvit_deploy.data.pairs.make import EDITS, NEARLY_ALL, Edit, compare_images, make_pairs
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.data.tokens import centre_box, pixels_of
from qvit_deploy.errors import InputError
from qvit_deploy.execute.executor import Executor
from qvit_deploy.graph.examples import Examples
from qvit_deploy.graph.graph import Graph
from qvit_deploy.graph.sites import find_sites

GREY = Preprocess(input_size=(1, 28, 28), mean=(0.286,), std=(0.353,), color="grey")
PATCHES: tuple[Edit, ...] = ("composite", "patch-swap", "inpaint")


@cache
def demo() -> ImageSet:
    return open_images("demo:fashion-mnist", GREY, split="test", limit=200)


def unlabelled() -> ImageSet:
    return ImageSet(demo().pictures, demo().names, GREY)


@pytest.mark.parametrize("kind", EDITS)
def test_a_pair_says_what_changed(kind: Edit) -> None:
    pairs = make_pairs(demo(), kind, 4, 20, 0)
    assert len({pair.name for pair in pairs}) == 20
    for pair in pairs:
        assert pair.kind == kind
        assert pair.clean.shape == pair.corrupt.shape == (1, 28, 28)
        assert pair.clean.dtype == pair.corrupt.dtype == np.float32
        assert pair.changed_tokens.shape == (7, 7) and pair.changed_tokens.any()
        same = pixels_of(~pair.changed_tokens, 4)
        assert (pair.clean[:, same] == pair.corrupt[:, same]).all()
        for r, c in np.argwhere(pair.changed_tokens):
            assert (pair.clean != pair.corrupt)[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].any()


@pytest.mark.parametrize("kind", EDITS)
def test_pairs_depend_on_the_seed_alone(kind: Edit) -> None:
    once, again, other = (make_pairs(demo(), kind, 4, 5, seed) for seed in (0, 0, 1))
    for a, b in zip(once, again, strict=True):
        assert (a.clean == b.clean).all() and (a.corrupt == b.corrupt).all()
    assert [p.name for p in once] != [p.name for p in other]


def test_more_pairs_go_on_where_fewer_ended() -> None:
    few, many = make_pairs(demo(), "composite", 4, 5, 3), make_pairs(demo(), "composite", 4, 9, 3)
    assert all((a.corrupt == b.corrupt).all() for a, b in zip(few, many, strict=False))


@pytest.mark.parametrize("kind", ["composite", "patch-swap", "unrelated"])
def test_partners_are_of_another_class(kind: Edit) -> None:
    pairs = make_pairs(demo(), kind, 4, 50, 0)
    assert all(pair.corrupt_label is not None and pair.corrupt_label != pair.label for pair in pairs)
    assert np.bincount([p.label for p in pairs if p.label is not None]).tolist() == [5] * 10


@pytest.mark.parametrize("kind", PATCHES)
@pytest.mark.parametrize("patch", [2, 4])
def test_a_region_is_whole_tokens_and_no_larger_than_said(kind: Edit, patch: int) -> None:
    grid = (28 // patch, 28 // patch)
    region = centre_box(grid, 0.5)
    for pair in make_pairs(demo(), kind, patch, 20, 0, side=0.5):
        assert pair.changed_tokens.sum() <= region.sum()
        if kind != "patch-swap":
            assert not (pair.changed_tokens & ~region).any()


@pytest.mark.parametrize("model", ["tiny_vit", "tiny_swin"])
def test_unchanged_tokens_are_embedded_to_the_same_bits(model: str, request: pytest.FixtureRequest) -> None:
    graph: Graph = request.getfixturevalue(model)
    preprocess = Preprocess(input_size=graph.interface.image_size, mean=(0.5,), std=(0.5,))
    images = open_images("demo:fashion-mnist", preprocess, split="test", limit=20)
    embedding = next(site.output for site in find_sites(graph) if site.role == "image")
    for kind in PATCHES:
        for pair in make_pairs(images, kind, 4, 5, 0):
            both = torch.from_numpy(np.stack([pair.clean, pair.corrupt]))
            clean, corrupt = Executor(graph).run(Examples.images(both), fetch=[embedding])[embedding].numpy()
            assert clean.shape[0] == pair.changed_tokens.size
            assert ((clean != corrupt).any(axis=1) == pair.changed_tokens.ravel()).all()


def test_without_labels_patches_are_exchanged_within_the_picture() -> None:
    for pair in make_pairs(unlabelled(), "patch-swap", 4, 10, 0):
        assert (pair.label, pair.corrupt_label) == (None, None)
        assert np.sort(pair.clean, axis=None).tolist() == np.sort(pair.corrupt, axis=None).tolist()


def test_inpainting_hides_the_middle() -> None:
    pair = make_pairs(demo(), "inpaint", 4, 1, 0)[0]
    inside = pixels_of(centre_box((7, 7), 0.7), 4)
    assert (
        np.abs(np.diff(pair.corrupt[0], axis=0))[inside[1:]].mean()
        < 0.5 * np.abs(np.diff(pair.clean[0], axis=0))[inside[1:]].mean()
    )


def test_what_is_doubtful_says_so() -> None:
    for kind in EDITS:
        pair = make_pairs(demo(), kind, 4, 1, 0)[0]
        assert pair.out_of_distribution == (kind in ("blur", "noise"))
        assert any("out of distribution" in w for w in pair.warnings) == pair.out_of_distribution
        assert any("unrelated photos" in w for w in pair.warnings) == (kind == "unrelated")


def test_pictures_that_the_edit_leaves_alone_are_passed_over() -> None:
    flat = np.full((3, 28, 28), 9, np.uint8)
    flat[1, 14, 14] = 200
    images = ImageSet(flat, ("a", "b", "c"), GREY)
    assert [pair.name for pair in make_pairs(images, "inpaint", 4, 1, 0)] == ["b"]
    with pytest.raises(InputError, match="2 inpaint pairs need as many pictures that the edit changes; 1 of the 3 are"):
        make_pairs(images, "inpaint", 4, 2, 0)


def test_pairs_that_cannot_be_made() -> None:
    one_class = ImageSet(demo().pictures, demo().names, GREY, np.zeros(len(demo()), np.int64))
    with pytest.raises(InputError, match="there is no kind of pair 'smear'; kinds are composite, "):
        make_pairs(demo(), "smear", 4, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="these have no labels"):
        make_pairs(unlabelled(), "composite", 4, 1, 0)
    with pytest.raises(InputError, match="these have one"):
        make_pairs(one_class, "patch-swap", 4, 1, 0)
    with pytest.raises(InputError, match="whole 5x5 patches"):
        make_pairs(demo(), "blur", 5, 1, 0)
    with pytest.raises(InputError, match="at least 1"):
        make_pairs(demo(), "blur", 4, 0, 0)
    with pytest.raises(InputError, match="201 blur pairs"):
        make_pairs(demo(), "blur", 4, 201, 0)
    with pytest.raises(InputError, match="leave some to fill them from"):
        make_pairs(demo(), "inpaint", 4, 1, 0, side=1.0)


def photo(seed: int) -> np.ndarray:
    """A smooth coloured scene of 64 x 64 pixels, as uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.array(coarse.resize((64, 64), Image.Resampling.BICUBIC))


RGB = Preprocess(input_size=(3, 64, 64), mean=(0.5,), std=(0.5,))


def as_jpeg(picture: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=90)
    return np.array(Image.open(file))


def test_two_photos_are_told_from_an_edit() -> None:
    a, b = photo(0), photo(1)
    edited = a.copy()
    edited[16:40, 16:40] = b[16:40, 16:40]
    same = compare_images(RGB.apply(a), RGB.apply(edited), 8)
    assert (same.kind, same.changed, same.visible, same.warnings) == ("same-background", 9 / 64, 9 / 64, ())
    assert np.argwhere(same.changed_tokens).tolist() == [[r, c] for r in (2, 3, 4) for c in (2, 3, 4)]
    other = compare_images(RGB.apply(a), RGB.apply(b), 8)
    assert other.kind == "unrelated" and other.visible >= NEARLY_ALL
    assert "unrelated photos" in other.warnings[0]


def test_an_edit_saved_as_jpeg_is_still_an_edit() -> None:
    a = photo(0)
    edited = a.copy()
    edited[16:40, 16:40] = photo(1)[16:40, 16:40]
    difference = compare_images(RGB.apply(as_jpeg(a)), RGB.apply(as_jpeg(edited)), 8)
    assert difference.kind == "same-background" and difference.visible < 0.5
    everywhere = compare_images(RGB.apply(a), RGB.apply(as_jpeg(edited)), 8)
    assert everywhere.kind == "same-background"
    assert everywhere.changed >= NEARLY_ALL and "save pairs as PNG" in everywhere.warnings[0]


def test_images_of_two_sizes_are_no_pair() -> None:
    with pytest.raises(InputError, match="one size"):
        compare_images(np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 12), np.float32), 4)
