"""Opens what the command line calls DATA as a set of pictures and streams it to a model in batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.data.example_set import ExampleSet, draw, update
from qvit_deploy.data.folder import list_folder
from qvit_deploy.data.npz import Split, element_name, read_npz
from qvit_deploy.data.pictures import BadPictureError, check_header, decode, require_pillow, size_of
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.graph.examples import Examples

_DEMOS = {"fashion-mnist": Path(__file__).parent / "demo" / "fashion_mnist.npz"}


@dataclass(frozen=True, eq=False)
class ImageSet(ExampleSet):
    """N pictures with their preprocessing. Files are decoded when a batch asks for them and then forgotten.

    Attributes:
        pictures: files, or uint8 [N, H, W] or [N, H, W, 3].
        others: values of a model's other inputs, for every picture.
    """

    pictures: tuple[Path, ...] | NDArray[np.uint8]
    names: tuple[str, ...]
    preprocess: Preprocess
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    label_maps: Path | None = None
    others: Examples[NDArray[Any]] | None = None

    def between(self, start: int, stop: int) -> Examples[NDArray[Any]]:
        """Returns the examples from `start` up to `stop`.

        Raises:
            BadPictureError: (an InputError) a file is corrupt, or is gone since the set was opened.
        """
        images = Examples.images(np.stack([self.preprocess.apply(self.picture(i)) for i in range(start, stop)]))
        return images if self.others is None else images.beside(self.others[start:stop])

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over the decoded pictures, the labels and the preprocessing; names do not matter."""
        sha = hashlib.sha256(self.preprocess.model_dump_json().encode())
        for i in range(len(self)):
            picture = self.picture(i)
            sha.update(repr(picture.shape).encode())
            sha.update(picture.tobytes())
        if self.others is not None:
            update(sha, self.others)
        sha.update(b"unlabelled" if self.labels is None else self.labels.astype("<i8").tobytes())
        return sha.hexdigest()

    def picture(self, i: int) -> NDArray[np.uint8]:
        """Returns picture `i` as it was stored, uint8 [H, W] or [H, W, 3]. Raises BadPictureError."""
        picture = self.pictures[i]
        return decode(picture) if isinstance(picture, Path) else picture

    def size(self, i: int) -> tuple[int, int]:
        """Returns (height, width) of picture `i` as it was stored. Raises BadPictureError."""
        picture = self.pictures[i]
        return size_of(picture) if isinstance(picture, Path) else (picture.shape[0], picture.shape[1])

    def take(self, indices: NDArray[np.intp]) -> ImageSet:
        """Returns the pictures at `indices`, in that order."""
        pictures = self.pictures
        return replace(
            self,
            pictures=tuple(pictures[i] for i in indices) if isinstance(pictures, tuple) else pictures[indices],
            names=tuple(self.names[i] for i in indices),
            labels=None if self.labels is None else self.labels[indices],
            others=None if self.others is None else self.others.at(indices),
        )


def open_images(
    spec: str,
    preprocess: Preprocess,
    *,
    limit: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    split: Split = "calib",
    minimum: int = 1,
) -> ImageSet:
    """Opens DATA: an image folder, an `.npz` or `demo:fashion-mnist`; the arguments are those of `open_drawn`."""
    images, drawn = open_drawn(
        spec, preprocess, limit=limit, seed=seed, skip_bad=skip_bad, split=split, minimum=minimum
    )
    return images if len(drawn) == len(images) else images.take(np.sort(drawn))


def open_drawn(
    spec: str,
    preprocess: Preprocess,
    *,
    limit: int | None,
    seed: int,
    skip_bad: bool,
    split: Split = "calib",
    minimum: int = 1,
) -> tuple[ImageSet, NDArray[np.intp]]:
    """Returns (all that DATA lists, the indices of the images drawn from it, in the order in which they were drawn):
    the first n of them are what a limit of n draws.

    With split "calib" every drawn file is decoded once here, because a long compile follows; with "test" only headers
    are read, as a test set can be large and is decoded right after.

    Args:
        limit: draws that many pictures with `seed`, balanced over the classes.
        skip_bad: leaves corrupt files out and lists them in `skipped`; without it they are an error.

    Raises:
        InputError: there is no such data, a file is corrupt (named), or fewer than `minimum` images are left.
    """
    if limit is not None and limit < 1:
        raise InputError(f"the number of images must be at least 1, got {limit}")
    path = locate(spec)
    if path.is_dir():
        images, drawn = _open_folder(path, preprocess, limit, seed, skip_bad, full=split == "calib" or skip_bad)
    else:
        arrays = read_npz(path, split)
        preprocess.resized_size(*arrays.images.shape[1:3])
        names = tuple(element_name(arrays.key, i) for i in range(len(arrays.images)))
        maps = path if arrays.label_maps else None
        images = ImageSet(arrays.images, names, preprocess, arrays.labels, arrays.class_names, label_maps=maps)
        drawn = draw(len(images), images.labels, seed)[:limit]

    if len(drawn) < minimum:
        raise InputError(f"at least {minimum} images are needed, {spec} gives {len(drawn)}; add images")
    return images, drawn


def locate(spec: str) -> Path:
    """Returns the folder, `.npz` or `.npy` file that `spec` names. Raises InputError."""
    if spec.startswith("demo:"):
        demo = _DEMOS.get(spec.removeprefix("demo:"))
        if demo is None:
            raise InputError(f"there is no data set {spec!r}; the built-in one is demo:{', demo:'.join(_DEMOS)}")
        if not demo.is_file():
            raise InputError(f"{spec} is missing from this installation ({demo}); reinstall qvit-deploy")
        return demo
    if not spec:
        raise InputError("the image folder or .npz file has an empty name; for the current folder, say .")
    try:
        path = Path(spec).expanduser()
        if path.is_dir() or (path.is_file() and path.suffix.lower() in (".npz", ".npy")):
            return path
        exists = path.exists()
    except (OSError, RuntimeError) as error:  # no permission on the way, a name too long, "~" of an unknown user
        raise InputError(f"image folder or .npz file {spec[:200]} cannot be opened: {error}"[:400]) from None
    if exists:
        raise InputError(f"{spec} is neither a folder of images nor an .npz or .npy file")
    raise InputError(f"no such image folder or .npz file: {spec}")


def _open_folder(
    root: Path, preprocess: Preprocess, limit: int | None, seed: int, skip_bad: bool, *, full: bool
) -> tuple[ImageSet, NDArray[np.intp]]:
    listing = list_folder(root)
    require_pillow()
    bad = list(listing.refused)
    wanted = len(listing.paths) if limit is None else min(limit, len(listing.paths))
    good: list[int] = []
    # With skip_bad the draw goes on until enough are good, so a few bad files do not shrink or unbalance the
    # set.
    for examined, i in enumerate(draw(len(listing.paths), listing.labels, seed).tolist()):
        if len(good) == wanted or (examined == wanted and not skip_bad):
            break
        reason = _defect(listing.paths[i], preprocess, full)
        if reason is None:
            good.append(i)
        else:
            bad.append((listing.names[i], reason))

    if bad and not skip_bad:
        shown = "; ".join(f"{name}: {reason}" for name, reason in sorted(bad)[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise InputError(
            f"{len(bad)} of the images in {root} cannot be used ({shown}{more}); remove them or pass --skip-bad-images"
        )
    if not good:
        raise InputError(f"none of the {len(bad)} images in {root} can be used (first: {bad[0][0]}: {bad[0][1]})")
    listed = ImageSet(listing.paths, listing.names, preprocess, listing.labels, listing.class_names, tuple(sorted(bad)))
    return listed, np.array(good, dtype=np.intp)


def _defect(path: Path, preprocess: Preprocess, full: bool) -> str | None:
    """Says why the picture cannot be used; None when it can."""
    try:
        if full:
            preprocess.resized_size(*decode(path).shape[:2])
        else:
            check_header(path)
    except BadPictureError as error:
        return error.reason
    except InputError as error:
        return str(error)
    return None
