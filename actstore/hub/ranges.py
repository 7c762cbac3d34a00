"""A remote file that pyarrow reads like a local one: only the ranges it asks for travel."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from actstore.errors import CorruptStoreError, RemoteStoreError
from actstore.hub.client import Client
from actstore.storage import metadata
from actstore.storage.manifest import ShardEntry

if TYPE_CHECKING:
    import pyarrow as pa

_TAIL = 256 << 10
"""Bytes at the end fetched first where the vectors' place is not known: the footer is there."""


class RangeFile(io.RawIOBase):
    """One file of a repository, read by range requests; the end of it is fetched once."""

    def __init__(
        self, client: Client, repository: str, commit: str, path: str, *, size: int, tail: int
    ) -> None:
        super().__init__()
        self._where = (client, repository, commit, path)
        self._size = size
        self._at = 0
        self._tail_start = max(0, size - tail)
        self._tail = b""

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
        if stop <= self._at:
            return b""
        if self._at >= self._tail_start:
            if not self._tail:
                self._tail = self._fetch(self._tail_start, self._size)
            found = self._tail[self._at - self._tail_start : stop - self._tail_start]
        else:
            found = self._fetch(self._at, stop)
        self._at = stop
        return found

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readall(self) -> bytes:
        return self.read()

    def _fetch(self, start: int, stop: int) -> bytes:
        client, repository, commit, path = self._where
        return client.read_range(repository, path, commit, start, stop)


def read_columns(
    client: Client, repository: str, commit: str, entry: ShardEntry, columns: list[str]
) -> pa.Table:
    """Read metadata columns of a remote shard; its vectors do not travel.

    Raises:
        RemoteStoreError: the shard is damaged, or not what the manifest says.
        HubError: as :meth:`Client.call`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    item = 2 if entry.dtype == "float16" else 4
    ends = [offset + rows * entry.width * item for offset, rows in entry.pages]
    tail = entry.bytes - max(ends) if ends else _TAIL
    file = RangeFile(client, repository, commit, entry.path, size=entry.bytes, tail=tail)
    try:
        with pq.ParquetFile(file) as opened:
            return metadata.checked_columns(opened, entry, columns)
    except (CorruptStoreError, pa.ArrowException, ValueError) as error:
        raise RemoteStoreError(
            f"{entry.path} of {repository} is damaged ({str(error).splitlines()[0]}): whoever "
            "pushed it must push it anew"
        ) from None
