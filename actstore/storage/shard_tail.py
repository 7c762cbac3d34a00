"""What stands behind a shard's vectors: checksums, the metadata columns, and the footer."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actstore import schema
from actstore.storage import checksums, column_chunks, footers, pages
from actstore.storage.column_chunks import ColumnGroup
from actstore.storage.disk_errors import named
from actstore.storage.pages import VectorPage

if TYPE_CHECKING:
    import pyarrow as pa


class MetadataColumns:
    """The metadata columns of a shard that grows, row group by row group.

    Args:
        path: of a file that holds them meanwhile; None: they are few and stay in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.groups: list[ColumnGroup] = []
        """What a footer says of them."""

    def add(self, table: pa.Table) -> None:
        """Add the rows of a group, all their metadata.

        Raises:
            OSError: the disk is full or failed.
        """
        group = column_chunks.encoded(table)
        if self._path is not None:
            with self._path.open("ab" if self.groups else "wb") as file:
                file.writelines(chunk.data for chunk in group.chunks)
            group = group.without_data()
        self.groups.append(group)

    def content(self) -> bytes:
        """Return the bytes of all groups, one behind the other; the file is gone then."""
        if self._path is None:
            return b"".join(chunk.data for group in self.groups for chunk in group.chunks)
        with named(self._path):
            content = self._path.read_bytes()
        self._path.unlink()
        return content

    def abort(self) -> None:
        """Remove what was written."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def append_metadata(
    descriptor: int,
    columns: MetadataColumns,
    vectors: Sequence[VectorPage],
    sums: list[int],
    width: int,
    dtype: schema.StoredType,
) -> None:
    """Complete a shard: behind its vectors their blocks' checksums, the metadata, and the footer.

    Args:
        descriptor: the shard's file, which holds the vectors.
        columns: the metadata, in the same row groups.
        vectors: where the vectors are.
        sums: checksum of each block of vectors.
        width: of the vectors.
        dtype: of the vectors.

    Raises:
        OSError: the disk is full or failed.
    """
    table = checksums.table(sums, width * np.dtype(dtype).itemsize)
    last = vectors[-1]
    place = pages.align(last.end + pages.padding(last.rows, width, dtype))
    start = pages.align(place + len(table))
    body = columns.content()
    footer = footers.footer(width, dtype, vectors, columns.groups, start)
    gaps = table.join((bytes(place - last.end), bytes(start - place - len(table))))
    tail = footer + struct.pack("<I", len(footer)) + pages.MAGIC
    write_at(descriptor, memoryview(pages.MAGIC), 0)
    write_at(descriptor, memoryview(gaps), last.end)
    write_at(descriptor, memoryview(body), start)
    write_at(descriptor, memoryview(tail), start + len(body))
    # A group that was rolled back may have left bytes behind the end.
    os.ftruncate(descriptor, start + len(body) + len(tail))


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at a position of a file."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written
