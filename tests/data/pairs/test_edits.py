"""What each edit changes, to the bit, and what it leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qvit_deploy.data.pairs.edits import blur, composite, noise, swap_within
from qvit_deploy.data.pairs.inpaint import inpaint
from qvit_deploy.data.tokens import box, by_token, centre_box, pixels_of, random_box, token_grid, tokens_of
from qvit_deploy.errors import InputError


def image(seed: int = 0, size: tuple[int, ...] = (3, 12, 16)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


grids = st.tuples(st.integers(1, 6), st.integers(1, 6))
tokens = grids.flatmap(lambda grid: arrays(bool, grid))


@given(tokens, st.integers(1, 5))
def test_tokens_and_their_pixels(region: np.ndarray, patch: int) -> None:
    pixels = pixels_of(region, patch)
    assert pixels.shape == (region.shape[0] * patch, region.shape[1] * patch)
    assert pixels.sum() == region.sum() * patch**2
    assert (tokens_of(pixels, patch) == region).all()


def test_one_pixel_is_its_token() -> None:
    pixels = np.zeros((8, 12), bool)
    pixels[3, 4] = True
    assert np.argwhere(tokens_of(pixels, 4)).tolist() == [[0, 1]]


def test_what_each_token_sees() -> None:
    plane = image()
    assert by_token(plane, 4).shape == (3, 3, 4, 16)
    assert (by_token(plane, 4)[1, 2, 3] == plane[1, 8:12, 12:16].ravel()).all()


def test_boxes() -> None:
    assert np.argwhere(box((4, 5), 1, 2, 2, 1)).tolist() == [[1, 2], [2, 2]]
    assert centre_box((7, 7), 0.7).sum() == 25
    assert centre_box((7, 7), 0.01).sum() == 1
    assert centre_box((3, 9), 1.0).all()
    for seed in range(20):
        region = random_box((5, 8), 0.5, np.random.default_rng(seed))
        rows, columns = np.nonzero(region)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1, region.sum()) == (2, 4, 8)


def test_bad_regions() -> None:
    for arguments in ((0, 0, 5, 1), (-1, 0, 1, 1), (0, 4, 1, 2), (0, 0, 0, 1)):
        with pytest.raises(InputError, match="grid of 4x5"):
            box((4, 5), *arguments)
    for side in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="share of each side"):
            centre_box((4, 5), side)
    for patch in (0, 5, 8):
        with pytest.raises(InputError, match=f"whole {patch}x{patch} patches"):
            token_grid(12, 16, patch)


@given(arrays(bool, (12, 16)))
def test_a_composite_is_one_picture_inside_and_the_other_outside(mask: np.ndarray) -> None:
    a, b = image(0), image(1)
    edited = composite(a, b, mask)
    assert edited.dtype == np.float32
    assert (edited[:, mask] == b[:, mask]).all() and (edited[:, ~mask] == a[:, ~mask]).all()


def test_a_composite_needs_images_of_one_size() -> None:
    with pytest.raises(InputError, match="one size"):
        composite(image(), image(size=(3, 12, 12)), np.ones((12, 16), bool))
    with pytest.raises(InputError, match="boolean"):
        composite(image(), image(), np.ones((12, 16)))


@given(arrays(bool, (3, 4)), st.integers(0, 99))
def test_exchanged_patches_are_all_still_there(region: np.ndarray, seed: int) -> None:
    assume(region.any() and not region.all())
    before = image()
    after = swap_within(before, region, 4, np.random.default_rng(seed))
    patches = [sorted(map(bytes, by_token(x, 4).transpose(1, 2, 0, 3).reshape(12, -1))) for x in (before, after)]
    assert patches[0] == patches[1]
    moved = tokens_of((before != after).any(axis=0), 4)
    count = min(region.sum(), (~region).sum())
    assert moved[region].sum() == moved[~region].sum() == count
    assert (before == swap_within(before, region, 4, np.random.default_rng(seed))).all() == (not moved.any())


def test_patches_that_cannot_be_exchanged() -> None:
    rng = np.random.default_rng(0)
    for region in (np.zeros((3, 4), bool), np.ones((3, 4), bool)):
        with pytest.raises(InputError, match="not all"):
            swap_within(image(), region, 4, rng)
    with pytest.raises(InputError, match="tokens"):
        swap_within(image(), np.eye(3, dtype=bool), 4, rng)


@settings(max_examples=30)
@given(arrays(bool, (12, 16)))
def test_inpainting_fills_between_its_border_and_touches_nothing_else(mask: np.ndarray) -> None:
    assume(mask.any() and not mask.all())
    before = image()
    after = inpaint(before, mask)
    assert (after[:, ~mask] == before[:, ~mask]).all()
    for old, new in zip(before, after, strict=True):  # the maximum principle of harmonic functions
        assert old[~mask].min() - 1e-5 <= new[mask].min() and new[mask].max() <= old[~mask].max() + 1e-5
    padded = np.pad(after, ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    neighbours = np.stack([padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]])
    assert np.allclose(np.nanmean(neighbours, axis=0)[:, mask], after[:, mask], atol=1e-5)


def test_inpainting_continues_a_slope() -> None:
    y, x = np.mgrid[0:12, 0:16].astype(np.float32)
    plane = np.stack([2 * x - 3 * y + 1, x * x - y * y, np.full_like(x, 5)])  # harmonic on the grid, all three
    damaged = plane.copy()
    mask = pixels_of(box((6, 8), 1, 2, 3, 4), 2)
    damaged[:, mask] = 99
    assert np.allclose(inpaint(damaged, mask), plane, atol=1e-3)


def test_a_region_that_cannot_be_filled() -> None:
    for mask in (np.zeros((12, 16), bool), np.ones((12, 16), bool)):
        with pytest.raises(InputError, match="to fill them from"):
            inpaint(image(), mask)
    with pytest.raises(InputError, match="boolean"):
        inpaint(image(), np.ones((3, 3), bool))


def test_edits_do_not_depend_on_normalisation() -> None:
    scale, offset = np.array([0.5, 2, 3], np.float32)[:, None, None], np.array([1, -1, 0.5], np.float32)[:, None, None]
    region = centre_box((3, 4), 0.5)
    edits = {
        "composite": lambda x: composite(x, x[:, ::-1], pixels_of(region, 4)),
        "swap": lambda x: swap_within(x, region, 4, np.random.default_rng(0)),
        "inpaint": lambda x: inpaint(x, pixels_of(region, 4)),
        "blur": lambda x: blur(x, 2),
        "noise": lambda x: noise(x, 1, np.random.default_rng(0)),
    }
    for name, edit in edits.items():
        assert np.allclose(edit(scale * image() + offset), scale * edit(image()) + offset, atol=1e-5), name


def test_blur_keeps_the_mean_and_takes_the_contrast() -> None:
    before = image(size=(3, 32, 32))
    after = blur(before, 2)
    assert after.dtype == np.float32
    assert np.allclose(after.mean(axis=(1, 2)), before.mean(axis=(1, 2)), atol=1e-5)
    assert (after.std(axis=(1, 2)) < 0.3 * before.std(axis=(1, 2))).all()
    assert (blur(np.full((1, 8, 8), 3, np.float32), 2) == 3).all()


def test_noise_is_as_strong_as_asked() -> None:
    before = image(size=(3, 64, 64)) * np.array([1, 5, 0], np.float32)[:, None, None]
    after = noise(before, 0.5, np.random.default_rng(0))
    assert after.dtype == np.float32
    assert (after - before).std(axis=(1, 2)) == pytest.approx([0.5, 2.5, 0], rel=0.05)
