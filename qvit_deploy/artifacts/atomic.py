"""Writes so that a reader finds the whole or what was there before, never half of it.

What is written lies under a hidden name in the same folder, hence on the same file system, where a rename is atomic. It
reaches the disk before it gets its name, so that a power cut leaves no empty file there either. Whatever goes wrong,
Ctrl-C included, the hidden name is removed. Writers that come at once do not meet: the last one to finish stays.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from qvit_deploy.errors import InputError


def write_file(path: Path, content: bytes, hint: str = "") -> None:
    """Writes the file `path`, whose folder must exist; a pipe or device such as /dev/stdout gets the bytes themselves.

    Args:
        hint: what to do about a failure, put behind the message.

    Raises:
        InputError: it cannot be written.
    """
    with refusing(path, hint):
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
            return
        with whole_file(path, hint) as temporary:
            temporary.write_bytes(content)


def append(path: Path, content: bytes) -> None:
    """Adds to the end of the file `path`, in one go and in place: others may hold it open. Raises InputError."""
    with refusing(path), path.open("ab") as file:
        file.write(content)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes all files into `folder`, which is made if need be; other files there stay.

    They get their names, in the order of `contents`, when all of them are whole: a reader that finds the last one finds
    the others.

    Raises:
        InputError: one cannot be written; none has changed then, if it was not the renaming that failed.
    """
    make_folder(folder)
    with refusing(folder), ExitStack() as stack:
        for name, content in reversed(list(contents.items())):  # a stack is left from its end
            stack.enter_context(whole_file(folder / name)).write_bytes(content)


@contextmanager
def whole_file(path: Path, hint: str = "") -> Iterator[Path]:
    """A path to write to, which becomes the file `path` when the block ends, and is removed when it raises.

    A link is followed, as `open` does: the file it points to is replaced.

    Args:
        path: its folder must exist.
        hint: what to do about a failure, put behind the message.

    Raises:
        InputError: it cannot be written, or the block raised an OSError.
    """
    place = path.resolve()
    with refusing(path, hint):
        if place.exists() and not place.is_file():
            raise OSError(errno.EISDIR if place.is_dir() else errno.EINVAL, "it is not a file")
        with beside(place) as temporary:
            yield temporary
            sync(temporary)
            temporary.replace(place)


@contextmanager
def whole_folder(folder: Path, require_replaceable: Callable[[], None]) -> Iterator[Path]:
    """A new folder to fill, which becomes `folder` when the block ends, and is removed when it raises.

    A folder of that name is replaced as a whole, and is back if anything fails. The folders are synchronised here; who
    writes the files synchronises those.

    Args:
        require_replaceable: called right before the rename; raises if what lies at `folder` must not be removed. It may
            have appeared or changed meanwhile.

    Raises:
        InputError: it cannot be written, or the block raised an OSError.
    """
    with refusing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with beside(folder) as temporary:
            temporary.mkdir()
            yield temporary
            for each in [temporary, *(p for p in temporary.rglob("*") if p.is_dir())]:
                sync(each)
            require_replaceable()
            old = temporary.with_suffix(".old")
            try:
                if folder.exists():
                    folder.rename(old)
                temporary.rename(folder)
            except BaseException:  # Ctrl-C included
                if old.exists() and not folder.exists():
                    old.rename(folder)
                raise
            sync(folder.parent)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A free, hidden name in the folder of `path`; what lies there in the end, file or folder, is removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def refusing(path: Path, hint: str = "") -> Iterator[None]:
    """Turns an OSError of the block into an InputError: `path` cannot be written, why, and `hint`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        named = "" if error.filename is None else str(error.filename)
        # A file that was to be copied is worth a name; the hidden one is not.
        if named and Path(named).name != path.name and f".{path.resolve().name}." not in named:
            reason += f": {named}"
        raise InputError(f"{path} cannot be written: {reason}{hint}") from error


def make_folder(folder: Path, hint: str = "") -> None:
    """Makes the folder and those above it, if need be. Raises InputError."""
    with refusing(folder, hint):
        folder.mkdir(parents=True, exist_ok=True)


def sync(path: Path) -> None:
    """Makes a file, or the entries of a folder, survive a power cut; fsync of the files alone does not keep entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
