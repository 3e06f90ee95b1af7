"""Lists an image folder: its pictures, their classes and the entries that are refused. It decodes nothing."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvit_deploy.data.pictures import SUFFIXES
from qvit_deploy.errors import InputError


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder in label-then-name order.

    `names` are paths relative to the folder, with forward slashes. `labels` int64 [N] and `class_names` are
    None for a flat folder. `refused` names the entries that look like pictures but are not read, each with a
    reason.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None
    refused: tuple[tuple[str, str], ...]


def list_folder(root: Path) -> Listing:
    """Lists the images of `root`: all lie in it (unlabelled) or all in its sub-folders, one class each.

    Names sort naturally ("2" before "10"), as timm's reader does, because the position of a class folder is
    its label. A class folder without pictures keeps its label for the same reason. Hidden entries are
    ignored.

    Raises:
        InputError: the folder cannot be read, holds no images, or holds some directly and some in class folders.
    """
    refused: list[tuple[str, str]] = []
    try:
        flat = _pictures(root, root, refused, recurse=False)
        folders = [e for e in _entries(root) if _is_folder(e) and not e.is_symlink()]
        refused += [
            (e.name, "symbolic links to folders are not followed")
            for e in _entries(root)
            if _is_folder(e) and e.is_symlink()
        ]
        classes = [(e.name, _pictures(root, Path(e.path), refused, recurse=True)) for e in folders]
    except OSError as error:
        raise InputError(f"image folder {root} cannot be read: {error.filename}: {error.strerror}") from None

    labelled = [path for _, paths in classes for path in paths]
    if flat and labelled:
        raise InputError(
            f"image folder {root} mixes images ({flat[0].name}) with class folders that hold images "
            f"({labelled[0].parent.name}); keep all images in class folders, or none"
        )
    paths = flat or labelled
    if not paths and not refused:
        kinds = " ".join(sorted(SUFFIXES))
        raise InputError(f"image folder {root} holds no images (looked for {kinds}, directly or in class folders)")
    return Listing(
        paths=tuple(paths),
        names=tuple(path.relative_to(root).as_posix() for path in paths),
        labels=np.repeat(np.arange(len(classes)), [len(p) for _, p in classes]) if labelled else None,
        class_names=tuple(name for name, _ in classes) if labelled else None,
        refused=tuple(refused),
    )


def _pictures(root: Path, folder: Path, refused: list[tuple[str, str]], *, recurse: bool) -> list[Path]:
    """Returns the image files of `folder`, sorted, and appends to `refused` the entries that must not be read."""
    pictures: list[Path] = []
    for entry in _entries(folder):
        path = Path(entry.path)
        name = path.relative_to(root).as_posix()
        if _is_folder(entry):
            if recurse and entry.is_symlink():
                refused.append((name, "symbolic links to folders are not followed"))
            elif recurse:
                pictures += _pictures(root, path, refused, recurse=True)
        elif path.suffix.lower() in SUFFIXES:
            if _is_file(entry):  # known from the listing: a stat for each of ImageNet's million files takes minutes
                pictures.append(path)
            else:  # a named pipe would block the reader for ever
                refused.append((name, _defect(path)))
    return pictures


def ready_files(root: Path) -> tuple[Path, ...]:
    """Returns the `.npy` files of a folder, sorted naturally. Raises InputError if it cannot be read, or has pictures
    too."""
    try:
        entries = list(_entries(root))
        files = tuple(Path(e.path) for e in entries if e.name.lower().endswith(".npy") and _is_file(e))
    except OSError as error:
        raise InputError(f"folder {root} cannot be read: {error.filename}: {error.strerror}") from None
    picture = next((e.name for e in entries if Path(e.name).suffix.lower() in SUFFIXES), None)
    if files and picture is not None:
        raise InputError(f"folder {root} mixes ready tensors ({files[0].name}) with images ({picture}); keep one")
    return files


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return _unless_looping(entry.is_dir)


def _is_file(entry: os.DirEntry[str]) -> bool:
    return _unless_looping(entry.is_file)


def _unless_looping(question: Callable[[], bool]) -> bool:
    """Returns the answer, which is no for a symbolic link that leads back to itself."""
    try:
        return question()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _defect(path: Path) -> str:
    """Says why a picture that is no regular file is not read: links that lead nowhere, pipes, devices."""
    try:
        path.stat()
    except FileNotFoundError:
        return "a broken symbolic link"
    except OSError as error:
        return "a symbolic link that leads back to itself" if error.errno == errno.ELOOP else str(error.strerror)
    return "not a regular file"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: _natural(e.name))


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that compares runs of ASCII digits as numbers; the name itself breaks ties ("1" and "01")."""
    parts = [p for p in re.split(r"([0-9]+)", name) if p]
    return [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in parts], name
