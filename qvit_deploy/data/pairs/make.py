"""Makes pairs of a clean and a corrupt image for patching, and says how much the two images of a pair share.

Patching replaces a token's activation by the one at the same place in the other image. That asks one question per token
only where both images show the same thing except for an edit; so pairs are edits that keep the background, and
what is not (two unrelated photos, or blur and noise, which no trained model has seen) carries a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from qvit_deploy.data.example_set import draw
from qvit_deploy.data.images import ImageSet
from qvit_deploy.data.pairs.edits import Image, as_taken, blur, composite, noise, swap_within
from qvit_deploy.data.pairs.inpaint import inpaint
from qvit_deploy.data.tokens import Tokens, by_token, centre_box, pixels_of, random_box, token_grid, tokens_of
from qvit_deploy.errors import InputError

Edit = Literal["composite", "patch-swap", "inpaint", "blur", "noise", "unrelated"]
"""The kinds of pair that `make_pairs` makes."""

Kind = Literal[Edit, "same-background"]
"""Pairs that the user gives are `same-background` or `unrelated`."""

EDITS: tuple[Edit, ...] = get_args(Edit)
OUT_OF_DISTRIBUTION: frozenset[Kind] = frozenset({"blur", "noise"})

SIDE = 0.7
"""The share of each side of the image that an edited region covers, unless another is asked for: half the area, which
changes most decisions of the demo models (docs/pairs.md) and leaves half the tokens as they are."""

NOISE = 1.0
"""Standard deviation of the noise, in those of the image's channels."""

VISIBLE = 0.02
"""A token differs visibly when its pixels do by this share of the pair's range on average: 5 levels of 8-bit pixels
from black to white, more than a good JPEG changes and less than any edit."""

NEARLY_ALL = 0.9
"""Two images that differ visibly in this share of their tokens have no background in common."""

UNRELATED = (
    "the two images are unrelated photos: a token shows different things in each, so only effects summed over tokens "
    "(per layer, per head) mean anything"
)


@dataclass(frozen=True, eq=False)
class ImagePair:
    """Two images of one size, ready for the model; they differ in at least one pixel.

    Attributes:
        name: of the clean picture, or of the pair's files.
        clean, corrupt: [C, H, W], float32, or uint8 for a model that takes pixels.
        changed_tokens: boolean [rows, columns], the tokens of which any pixel differs; all others see the same bits.
        warnings: what to keep in mind when reading effects measured with this pair.
        label: class of the clean picture, None where unknown.
        corrupt_label: class of the picture that the corrupt one was taken from, None without one or where unknown.
    """

    name: str
    clean: Image
    corrupt: Image
    kind: Kind
    changed_tokens: Tokens
    warnings: tuple[str, ...] = ()
    label: int | None = None
    corrupt_label: int | None = None

    @property
    def out_of_distribution(self) -> bool:
        """Whether the corrupt image is of a sort that no trained model has seen."""
        return self.kind in OUT_OF_DISTRIBUTION


@dataclass(frozen=True, eq=False)
class PairComparison:
    """How much two images differ.

    Attributes:
        changed_tokens: boolean [rows, columns], the tokens of which any pixel differs.
        changed: their share of all tokens.
        visible: the share of tokens that differ by more than `VISIBLE`.
        kind: `unrelated` when nearly all do, else `same-background`.
    """

    changed_tokens: Tokens
    changed: float
    visible: float
    kind: Literal["same-background", "unrelated"]
    warnings: tuple[str, ...]


def compare_images(clean: Image, corrupt: Image, patch: int) -> PairComparison:
    """Measures how much two images [C, H, W] differ, token by token. Raises InputError when their sizes differ."""
    if clean.shape != corrupt.shape:
        raise InputError(f"the images of a pair must have one size, got {list(clean.shape)} and {list(corrupt.shape)}")
    difference = by_token(np.abs(clean.astype(np.float32) - corrupt), patch)
    changed_tokens = _changed(clean, corrupt, patch)
    span = max(float(clean.max()), float(corrupt.max())) - min(float(clean.min()), float(corrupt.min()))
    changed = float(changed_tokens.mean())
    visible = float((difference.mean(axis=(0, -1)) > VISIBLE * span).mean())
    warnings: tuple[str, ...] = ()
    if visible >= NEARLY_ALL:
        warnings = (f"{visible:.0%} of the tokens differ: {UNRELATED}",)
    elif changed >= NEARLY_ALL:
        warnings = (
            f"{changed:.0%} of the tokens differ but only {visible:.0%} visibly: lossy files or a resized edit; "
            "save pairs as PNG at the model's input size",
        )
    return PairComparison(
        changed_tokens, changed, visible, "unrelated" if visible >= NEARLY_ALL else "same-background", warnings
    )


def make_pairs(
    images: ImageSet, kind: Edit, patch: int, count: int, seed: int, *, side: float = SIDE
) -> tuple[ImagePair, ...]:
    """Makes `count` pairs of this kind, each with another clean picture; the same seed gives the same pairs.

    Clean pictures are drawn balanced over the classes, partners among all pictures of other classes. `patch-swap`
    takes the patches of a box, placed at random, from a partner at the same place, or, when the set has no labels,
    exchanges them with others of the same picture. Pictures that the edit leaves as they are, such as an empty region
    to inpaint, are passed over.

    Args:
        patch: pixels that a token spans along each side.
        side: share of each side of the image that the edited box covers, in (0, 1]; blur, noise and unrelated
            pictures change it all and ignore this.

    Raises:
        InputError: a kind that does not exist or needs labels or a second class, an input that does not consist of
            whole patches, a region that does not suit the edit, or fewer pictures than pairs.
    """
    if kind not in EDITS:
        raise InputError(f"there is no kind of pair {kind!r}; kinds are {', '.join(EDITS)}")
    if count < 1:
        raise InputError(f"the number of pairs must be at least 1, got {count}")
    labels = images.labels
    partnered = kind in ("composite", "unrelated") or (kind == "patch-swap" and labels is not None)
    if partnered and (labels is None or len(np.unique(labels)) < 2):
        raise InputError(
            f"{kind} pairs take pictures of two classes; these have {'no labels' if labels is None else 'one'}"
        )
    grid = token_grid(*images.preprocess.input_size[1:], patch)

    rng = np.random.default_rng(seed)
    pairs: list[ImagePair] = []
    for i in draw(len(images), labels, seed).tolist():
        label, corrupt_label = None if labels is None else int(labels[i]), None
        clean, other = _load(images, i), None
        if partnered:
            assert labels is not None
            partner = int(rng.choice(np.flatnonzero(labels != label)))
            other, corrupt_label = _load(images, partner), int(labels[partner])
        corrupt = as_taken(_edit(kind, clean, other, grid, patch, side, rng), clean)
        changed = _changed(clean, corrupt, patch)
        if changed.any():
            pairs.append(
                ImagePair(images.names[i], clean, corrupt, kind, changed, _warnings(kind), label, corrupt_label)
            )
        if len(pairs) == count:
            return tuple(pairs)
    raise InputError(
        f"{count} {kind} pairs need as many pictures that the edit changes; {len(pairs)} of the {len(images)} are"
    )


def _changed(clean: Image, corrupt: Image, patch: int) -> Tokens:
    return tokens_of(np.any(clean != corrupt, axis=0), patch)


def _load(images: ImageSet, i: int) -> Image:
    return images.preprocess.apply(images.picture(i))


def _edit(
    kind: Edit,
    clean: Image,
    other: Image | None,
    grid: tuple[int, int],
    patch: int,
    side: float,
    rng: np.random.Generator,
) -> Image:
    clean = clean.astype(np.float32)
    if kind == "blur":
        return blur(clean, sigma=patch / 2)
    if kind == "noise":
        return noise(clean, NOISE, rng)
    if kind == "inpaint":
        return inpaint(clean, pixels_of(centre_box(grid, side), patch))
    if other is None:
        return swap_within(clean, random_box(grid, side, rng), patch, rng)
    if kind == "unrelated":
        return other
    region = centre_box(grid, side) if kind == "composite" else random_box(grid, side, rng)
    return composite(clean, other, pixels_of(region, patch))


def _warnings(kind: Kind) -> tuple[str, ...]:
    if kind in OUT_OF_DISTRIBUTION:
        return (f"{kind} is out of distribution: a model may process it elsewhere than it processes real images",)
    return (UNRELATED,) if kind == "unrelated" else ()
