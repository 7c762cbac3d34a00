"""SHA-256 of files: of a shard that this process writes, of a file as a whole, of a shard's end."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path
from typing import NamedTuple

from actstore.storage.disk_errors import reading
from actstore.storage.manifest import ShardEntry

_CHUNK = 1 << 20
_WINDOW = 8 << 20
"""Bytes hashed at a time: threads that hash ask for Python's lock between two of them."""
_POPULATED = getattr(mmap, "MAP_POPULATE", 0)
_FEW_BYTES = 256 << 10
"""Bytes of a file that is read as a whole."""


class WrittenHashes(NamedTuple):
    """What a file is that this process has written."""

    sha256: str
    bytes: int
    tail: str
    """SHA-256 of what stands behind the vectors."""


def of_written(descriptor: int, end: int) -> WrittenHashes:
    """Return the hashes of a file that this process has just written.

    Args:
        descriptor: the file.
        end: where the tail begins.
    """
    # Mapped, unlike files of others: a map needs no copy, but kills where a disk cannot be read.
    size = os.fstat(descriptor).st_size
    if size <= _FEW_BYTES:
        content = os.pread(descriptor, size, 0)
        tail_alone = hashlib.sha256(content[end:]).hexdigest()
        return WrittenHashes(hashlib.sha256(content).hexdigest(), size, tail_alone)
    digest, tail = hashlib.sha256(), hashlib.sha256()
    for start in range(0, size, _WINDOW):
        stop = min(size, start + _WINDOW)
        with (
            mmap.mmap(
                descriptor, stop - start, mmap.MAP_SHARED | _POPULATED, mmap.PROT_READ, offset=start
            ) as window,
            memoryview(window) as data,
        ):
            digest.update(data)
            if stop > end:
                tail.update(data[max(0, end - start) :])
    return WrittenHashes(digest.hexdigest(), size, tail.hexdigest())


def sha256_at(descriptor: int, start: int = 0) -> tuple[str, int]:
    """Return the SHA-256 of an open file from ``start`` on, and the file's size in bytes."""
    # Read, not mapped: pages of a map count as memory of this process.
    digest = hashlib.sha256()
    # Of small files there are thousands, and new memory is zeroed first.
    left = os.fstat(descriptor).st_size - start
    buffer = bytearray(max(1, min(_CHUNK, left)))
    size = start
    while count := os.preadv(descriptor, [buffer], size):
        digest.update(memoryview(buffer)[:count])
        size += count
    return digest.hexdigest(), size


def sha256_of(path: Path) -> tuple[str, int]:
    """Return a file's SHA-256 and size in bytes.

    Raises:
        ReadError: it cannot be read, or is not there (MissingFileError).
    """
    with reading(path), path.open("rb") as file:
        return sha256_at(file.fileno())


def tail_of(root: Path, entry: ShardEntry) -> str:
    """Return the SHA-256 of what stands behind the vectors of a shard.

    Raises:
        ReadError: it cannot be read, or is not there (MissingFileError).
    """
    path = root / entry.path
    with reading(path), path.open("rb") as file:
        return sha256_at(file.fileno(), entry.vectors_end)[0]
