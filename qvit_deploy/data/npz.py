"""Reads images from a NumPy `.npz` archive without trusting it: no pickles, sizes are checked before allocation."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from qvit_deploy.errors import InputError

Split = Literal["calib", "test"]

# Deflate reaches about 1000:1 on zeros; photographs reach 2:1 and drawings perhaps 20:1.
_BOMB_BYTES, _BOMB_RATIO = 2**30, 200

MAX_IMAGES = 4_000_000
"""Images an archive may hold: three times ImageNet. Kilobytes can hold more images of one pixel than memory names."""


@dataclass(frozen=True)
class ImageArrays:
    """Images of one split.

    Attributes:
        key: name of the images' array in the archive.
        images: uint8 [N, H, W] or [N, H, W, 3].
        labels: int64 [N]; None without labels, or where they are maps.
        label_maps: whether the labels are maps [N, H, W], which `read_label_maps` reads.
    """

    key: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None
    label_maps: bool = False


def read_npz(path: Path, split: Split) -> ImageArrays:
    """Reads `{split}_images` (with `{split}_labels`) or else `images` (with `labels`), and any `class_names`.

    Raises:
        InputError: the file is not such an archive, is damaged, or would unpack to a decompression bomb.
    """
    with _open_archive(path) as (archive, members):
        prefix = next((p for p in (f"{split}_", "") if f"{p}images" in members), None)
        if prefix is None:
            has = ", ".join(sorted(members)) or "nothing"
            raise InputError(f"{path} has no array 'images' or '{split}_images' (it has {has})")
        images = _read(archive, path, f"{prefix}images")
    pixels = check_images(path, f"{prefix}images", images)
    checked, class_names, maps = read_labels(path, split, len(images))
    return ImageArrays(f"{prefix}images", pixels, checked, class_names, maps)


def read_label_maps(path: Path, split: Split) -> NDArray[np.generic]:
    """Reads `{split}_labels` or else `labels` as maps, integers or floats [N, H, W].

    Raises:
        InputError: the file is not such an archive, has no such labels, or is as bad as for `read_npz`.
    """
    with _open_archive(path) as (archive, members):
        key = next((k for k in (f"{split}_labels", "labels") if k in members), None)
        if key is None:
            has = ", ".join(sorted(members)) or "nothing"
            raise InputError(f"{path} has no array 'labels' or '{split}_labels' (it has {has})")
        labels = _read(archive, path, key)
    if labels.dtype.kind not in "biuf" or not _are_maps(labels) or 0 in labels.shape:
        got = f"{labels.dtype} {list(labels.shape)}"
        raise InputError(f"{path}: '{key}' must be numbers [N, H, W], a label map for every image, got {got}")
    return labels


def read_arrays(path: Path, split: Split) -> dict[str, NDArray[Any]]:
    """Reads all arrays but labels and names of classes; of `{split}_NAME` and NAME the first, as NAME.

    Raises:
        InputError: the file is as bad as for `read_npz`.
    """
    with _open_archive(path) as (archive, members):
        others = [f"{s}_" for s in get_args(Split) if s != split]
        names = {name.removeprefix(f"{split}_") for name in members if not name.startswith(tuple(others))}
        names -= {"labels", "class_names"}
        keys = {name: f"{split}_{name}" if f"{split}_{name}" in members else name for name in sorted(names)}
        return {name: _read(archive, path, key) for name, key in keys.items()}


def read_labels(path: Path, split: Split, count: int) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None, bool]:
    """Reads (classes of `count` examples, their names, whether there are label maps in their place).

    Raises:
        InputError: the file is as bad as for `read_npz`.
    """
    with _open_archive(path) as (archive, members):
        key = next((k for k in (f"{split}_labels", "labels") if k in members), None)
        labels = None if key is None else _read(archive, path, key)
        names = _read(archive, path, "class_names") if "class_names" in members else None
    maps = labels is not None and _are_maps(labels)
    checked = None if labels is None or maps else _check_labels(path, str(key), labels, count)
    class_names = None
    if names is not None:
        if names.dtype.kind != "U" or names.ndim != 1:
            raise InputError(f"{path}: 'class_names' must be strings [K], got {names.dtype} {list(names.shape)}")
        class_names = tuple(names.tolist())
        if checked is not None and checked.max() >= len(class_names):
            raise InputError(f"{path}: label {checked.max()} has no entry in 'class_names' ({len(class_names)} names)")
    return checked, class_names, maps


def is_ready(path: Path, split: Split, names: Collection[str]) -> bool:
    """Returns whether an archive has arrays of these names, or images in floats: values that a model takes as they are.

    Raises:
        InputError: the file is not such an archive, or is damaged.
    """
    with _open_archive(path) as (archive, members):
        if any(name in members or f"{split}_{name}" in members for name in names):
            return True
        key = next((k for k in (f"{split}_images", "images") if k in members), None)
        if key is None:
            return False
        with archive.open(f"{key}.npy") as member:
            return read_header(member)[2].kind == "f"


def element_name(key: str, index: int) -> str:
    """Names one image of an archive: images[3]."""
    return f"{key}[{index}]"


def element_index(name: str) -> int:
    """Returns the 3 of images[3]."""
    return int(name[name.rindex("[") + 1 : -1])


def read_pair_npz(path: Path) -> tuple[ImageArrays, ImageArrays]:
    """Reads `clean` (with `labels`) and `corrupt` (with `corrupt_labels`), equally many images of equal size.

    Raises:
        InputError: the file is not such an archive, is damaged, or would unpack to a decompression bomb.
    """
    with _open_archive(path) as (archive, members):
        missing = [key for key in ("clean", "corrupt") if key not in members]
        if missing:
            has = ", ".join(sorted(members)) or "nothing"
            raise InputError(f"{path} has no array '{missing[0]}' (it has {has}); pairs are 'clean' and 'corrupt'")
        clean, corrupt = (check_images(path, key, _read(archive, path, key)) for key in ("clean", "corrupt"))
        labels = {key: _read(archive, path, key) for key in ("labels", "corrupt_labels") if key in members}
    if clean.shape[:3] != corrupt.shape[:3]:
        raise InputError(
            f"{path}: 'clean' is {list(clean.shape)} and 'corrupt' {list(corrupt.shape)}; the images of a pair must "
            "have the same size"
        )
    checked = {key: _check_labels(path, key, values, len(clean)) for key, values in labels.items()}
    return (
        ImageArrays("clean", clean, checked.get("labels"), None),
        ImageArrays("corrupt", corrupt, checked.get("corrupt_labels"), None),
    )


@contextmanager
def _open_archive(path: Path) -> Iterator[tuple[zipfile.ZipFile, set[str]]]:
    """Yields the archive and the names of its arrays; whatever goes wrong inside the block becomes an InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive, {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    except (InputError, MemoryError):
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception:  # zipfile raises BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError, ...
        raise InputError(
            f"{path} is not an .npz archive, or is damaged; write it with numpy.savez_compressed"
        ) from None


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads the header of a `.npy` file: (shape, whether in Fortran's order, type). Raises whatever numpy raises."""
    header = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
    fields: tuple[tuple[int, ...], bool, np.dtype[Any]] = header(file)
    return fields


def _read(archive: zipfile.ZipFile, path: Path, key: str) -> NDArray[np.generic]:
    """Reads one array. Its header is checked against the archive's directory first: numpy allocates what it says."""
    info = archive.getinfo(f"{key}.npy")
    try:
        with archive.open(info) as member:
            shape, _, dtype = read_header(member)
            if dtype.hasobject:
                raise InputError(f"{path}: '{key}' holds Python objects, which are never loaded; store plain numbers")
            if math.prod(shape) * dtype.itemsize > info.file_size:
                raise InputError(f"{path}: '{key}' is truncated")
            if info.file_size > _BOMB_BYTES and info.file_size > _BOMB_RATIO * max(info.compress_size, 1):
                raise InputError(f"{path}: '{key}' unpacks to {info.file_size / 1e9:.1f} GB: a decompression bomb")
        with archive.open(info) as member:
            array = npy.read_array(member, allow_pickle=False)
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: '{key}' ({info.file_size / 1e9:.1f} GB) does not fit in memory") from None
    except Exception as error:  # BadZipFile, zlib.error, ValueError, EOFError, ...
        raise InputError(f"{path}: '{key}' is damaged: {' '.join(str(error).split())}") from None
    return array


def check_images(path: Path, key: str, images: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Returns `images`, the array `key` of an archive, as pixels. Raises InputError if they are none."""
    wanted = "uint8 [N, H, W] or [N, H, W, 3]"
    got = f"{images.dtype} {list(images.shape)}"
    if images.dtype != np.uint8:
        raise InputError(f"{path}: '{key}' must be {wanted}, got {got}; store the raw 0..255 pixels")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        hint = "; channels go last" if images.ndim == 4 and images.shape[1] in (1, 3) else ""
        raise InputError(f"{path}: '{key}' must be {wanted}, got {got}{hint}")
    if len(images) > MAX_IMAGES:
        raise InputError(f"{path}: '{key}' holds {len(images):,} images, more than {MAX_IMAGES:,}; hand over a part")
    if 0 in images.shape:
        raise InputError(f"{path}: '{key}' is empty: {got}")
    return images.astype(np.uint8, copy=False)


def _are_maps(labels: NDArray[np.generic]) -> bool:
    return labels.ndim == 3


def _check_labels(path: Path, key: str, labels: NDArray[np.generic], count: int) -> NDArray[np.int64]:
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise InputError(
            f"{path}: '{key}' must be integers [{count}], one per image, got {labels.dtype} {list(labels.shape)}"
        )
    if labels.min() < 0:
        raise InputError(f"{path}: '{key}' has the negative label {labels.min()}; labels start at 0")
    return labels.astype(np.int64)
