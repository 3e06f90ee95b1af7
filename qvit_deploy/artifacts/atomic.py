"""Writes files and folders atomically: a reader sees all of the new content or what was there before.

The content is written under a hidden name in the same folder, hence on the same file system, where a rename is atomic.
It is synchronized to the disk before the rename, so that a power cut leaves no empty file either. Whatever goes wrong,
Ctrl-C included, the hidden file is removed; what a process leaves that was killed is removed by the next one that
writes into the folder. Writers that run at once do not disturb each other: the last rename wins.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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
        if _is_stream(path):
            path.write_bytes(content)
            return
        with whole_file(path, hint) as temporary:
            temporary.write_bytes(content)


def _is_stream(path: Path) -> bool:
    """Returns whether bytes go through `path` to whoever reads them: a pipe, a device, or one of this process's open
    files, which may be a regular file that standard output goes to."""
    return path.absolute().parts[1:2] in (("dev",), ("proc",)) or (
        path.exists() and not path.is_file() and not path.is_dir()
    )


def append(path: Path, content: bytes) -> None:
    """Appends to the file `path` with one write and in place, since others may hold it open. Raises InputError."""
    with refusing(path), path.open("ab") as file:
        file.write(content)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes all files into `folder`, which is created if need be; other files there stay.

    They are renamed, in the order of `contents`, after all of them are written: a reader that sees the last one sees
    the others too.

    Raises:
        InputError: one cannot be written; none has changed then, unless it was a rename that failed.
    """
    make_folder(folder)
    with refusing(folder), ExitStack() as stack:
        for name, content in reversed(list(contents.items())):  # a stack is left from its end
            stack.enter_context(whole_file(folder / name)).write_bytes(content)


@contextmanager
def whole_file(path: Path, hint: str = "") -> Iterator[Path]:
    """Gives a path to write to, which becomes the file `path` when the block ends and is removed when it raises.

    A symbolic link is followed, as `open` does: the file it points to is replaced. A file that is replaced hands on its
    permissions.

    Args:
        path: its folder must exist.
        hint: what to do about a failure, put behind the message.

    Raises:
        InputError: it cannot be written, or the block raised an OSError.
    """
    place = path.resolve()
    with refusing(path, hint):
        # Asked once: another writer may replace or remove the file at any moment.
        if (before := _mode(place)) is not None and not stat.S_ISREG(before):
            raise OSError(errno.EISDIR if stat.S_ISDIR(before) else errno.EINVAL, "it is not a file")
        with temporary_path(place) as temporary:
            yield temporary
            sync(temporary)
            if (before := _mode(place)) is not None:
                temporary.chmod(stat.S_IMODE(before))
            try:
                temporary.replace(place)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                shutil.copyfile(temporary, place)  # a file that is mounted by itself cannot be replaced


def _mode(path: Path) -> int | None:
    """Returns the type and the permissions of what is at `path`; None where nothing is."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


@contextmanager
def whole_folder(folder: Path, require_replaceable: Callable[[], None]) -> Iterator[Path]:
    """Gives a new folder to fill, which becomes `folder` when the block ends and is removed when it raises.

    An existing folder of that name is replaced, and restored if anything fails. Folders are synchronized to the disk
    here; the block has to `sync` the files that it writes.

    Args:
        require_replaceable: called right before the rename; raises if an existing `folder`, which may have appeared or
            changed meanwhile, must not be removed.

    Raises:
        InputError: it cannot be written, or the block raised an OSError.
    """
    with refusing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_path(folder) as temporary:
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
def temporary_path(path: Path) -> Iterator[Path]:
    """Gives a free, hidden name in the folder of `path`; the file or folder of that name is removed in the end."""
    _remove_debris(path.parent)
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    finally:
        _remove(temporary)


_HIDDEN = re.compile(
    r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d{1,9})-[0-9a-f]{8}\.(?P<kind>tmp|old)", re.DOTALL
)


def _remove_debris(folder: Path) -> None:
    """Removes what processes of this machine that have died left in `folder`, and puts back what one of them had moved
    aside to replace it. What it may not touch, or another process is quicker at, stays."""
    for entry in list(os.scandir(folder)) if folder.is_dir() else []:
        match = _HIDDEN.fullmatch(entry.name)
        if match is None or match["host"] != _host() or _lives(int(match["pid"])):
            continue
        with suppress(OSError):
            if match["kind"] == "old" and not os.path.lexists(folder / match["name"]):
                Path(entry).rename(folder / match["name"])
            else:
                _remove(Path(entry))


def _host() -> str:
    """Returns what tells this machine, or container, from others that write to the same folder: their processes have
    numbers of their own."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def refusing(path: Path, hint: str = "") -> Iterator[None]:
    """Converts an OSError of the block to an InputError that says that `path` cannot be written, why, and `hint`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        named = "" if error.filename is None else str(error.filename)
        # The file that failed is named where it is another, such as a source of a copy, but not the hidden one.
        if named and Path(named).name != path.name and f".{path.resolve().name}." not in named:
            reason += f": {named}"
        raise InputError(f"{path} cannot be written: {reason}{hint}") from error


def make_folder(folder: Path, hint: str = "") -> None:
    """Creates the folder and its parents if need be. Raises InputError."""
    with refusing(folder, hint):
        folder.mkdir(parents=True, exist_ok=True)


def sync(path: Path) -> None:
    """Synchronizes a file, or the entries of a folder, to the disk; fsync of a file does not cover its folder entry."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
