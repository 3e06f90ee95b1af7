"""Files that promise more than they hold, and a system that takes no more."""

from __future__ import annotations

import resource
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A real failure in the middle of a file: the system allows none of more than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width: int, height: int) -> bytes:
    """A valid PNG header with next to nothing behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def unpacking_to(archive: bytes, size: int) -> bytes:
    """A .zip archive of one file whose directory says that it unpacks to `size` bytes."""
    entry = archive.rindex(b"PK\x01\x02")
    return archive[: entry + 24] + struct.pack("<I", size) + archive[entry + 28 :]
