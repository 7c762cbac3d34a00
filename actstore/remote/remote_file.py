"""A file of a repository for pyarrow to read: fetches the ranges that are asked for."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.remote.vectors import Pieces


class RemoteReader(io.RawIOBase):
    """A seekable file of which only what is read travels.

    Args:
        pieces: the file's ranges.
        size: bytes of the file.
        tail: where the part begins that is fetched as a whole, when anything of it is read.
        blank: whether all before that reads as zeros. pyarrow looks for the footer in the
            last 64 KiB, which may reach into vectors that nobody wants.
    """

    def __init__(self, pieces: Pieces, *, size: int, tail: int, blank: bool) -> None:
        super().__init__()
        self._pieces = pieces
        self._size = size
        self._tail_start = max(0, min(tail, size))
        self._tail: bytes | None = None
        self._blank = blank
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._size, self._at + size)
        start = min(self._at, stop)
        self._at = stop
        cut = min(max(start, self._tail_start), stop)
        before = bytes(cut - start) if self._blank else self._fetch(start, cut)
        return before + self._from_tail(cut, stop)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any buffer
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readall(self) -> bytes:
        return self.read()

    def tail_sha256(self) -> str:
        """Return the SHA-256 of the part that is fetched as a whole."""
        return hashlib.sha256(self._whole_tail()).hexdigest()

    def _from_tail(self, start: int, stop: int) -> bytes:
        if stop <= start:
            return b""
        return self._whole_tail()[start - self._tail_start : stop - self._tail_start]

    def _whole_tail(self) -> bytes:
        if self._tail is None:
            self._tail = self._fetch(self._tail_start, self._size)
        return self._tail

    def _fetch(self, start: int, stop: int) -> bytes:
        return self._pieces.bytes(start, stop) if stop > start else b""
