"""SHA-256 of files: of a shard that this process writes, of a file as a whole, of a shard's end."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from actstore.storage.disk_errors import reading
from actstore.storage.manifest import ShardEntry
from actstore.storage.threads import Task, pool, submit

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


class HashAhead:
    """The hash of a shard's beginning, made while others are written: more rows may come yet.

    Args:
        descriptor: the shard's file, which holds the vectors and stays open until the task is over.
        head: what will stand before the vectors if no more of them come.
        end: where the vectors end.
    """

    def __init__(self, descriptor: int, head: bytes, end: int) -> None:
        self._head = head
        self.end = end
        self._digest = hashlib.sha256(head)
        self.task: Task[None] = submit(pool, self._hash, descriptor)

    def _hash(self, descriptor: int) -> None:
        for start in range(0, self.end, _WINDOW):
            stop = min(self.end, start + _WINDOW)
            with _mapped(descriptor, start, stop) as data:
                self._digest.update(data[max(0, len(self._head) - start) :])

    def found(self, descriptor: int) -> hashlib._Hash | None:
        """Return the hash of all up to the vectors' end; None where it is not what is there now."""
        # Where no thread has begun yet, whoever asks does it as fast.
        if self.task.cancel() or self.task.has_failed:
            return None
        self.task.wait()
        if self.task.has_failed or os.pread(descriptor, len(self._head), 0) != self._head:
            return None
        return self._digest.copy()


def of_written(descriptor: int, end: int, ahead: HashAhead | None = None) -> WrittenHashes:
    """Return the hashes of a file that this process has just written.

    Args:
        descriptor: the file.
        end: where the tail begins.
        ahead: what was hashed of it already, of the same rows.
    """
    # Mapped, unlike files of others: a map needs no copy, but kills where a disk cannot be read.
    size = os.fstat(descriptor).st_size
    if size <= _FEW_BYTES:
        content = os.pread(descriptor, size, 0)
        tail_only = hashlib.sha256(content[end:]).hexdigest()
        return WrittenHashes(hashlib.sha256(content).hexdigest(), size, tail_only)
    digest = None if ahead is None else ahead.found(descriptor)
    at = 0 if digest is None or ahead is None else ahead.end
    if digest is None:
        digest = hashlib.sha256()
    tail = hashlib.sha256()
    for start in range(at - at % mmap.ALLOCATIONGRANULARITY, size, _WINDOW):
        stop = min(size, start + _WINDOW)
        with _mapped(descriptor, start, stop) as data:
            digest.update(data[max(0, at - start) :])
            if stop > end:
                tail.update(data[max(0, end - start) :])
    return WrittenHashes(digest.hexdigest(), size, tail.hexdigest())


@contextmanager
def _mapped(descriptor: int, start: int, stop: int) -> Iterator[memoryview]:
    flags = mmap.MAP_SHARED | _POPULATED
    with (
        mmap.mmap(descriptor, stop - start, flags, mmap.PROT_READ, offset=start) as window,
        memoryview(window) as data,
    ):
        yield data


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
