"""What stands behind a shard's vectors: checksums, the metadata columns, and the footer."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actstore import schema
from actstore.storage import checksums, pages
from actstore.storage.pages import VectorPage

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Long texts would put their minimum and maximum into every footer and help no filter.
NO_STATISTICS = frozenset({"question", "oracle", "prediction", "extra", "source"})


def metadata_writer(
    target: Path | pa.BufferOutputStream,
    dtype: schema.StoredType,
    plain: Collection[str] = (),
) -> pq.ParquetWriter:
    """Return what writes a shard's metadata columns as a Parquet file of their own.

    Args:
        target: where to.
        dtype: of the vectors, beside which some types keep a column more.
        plain: columns of one value, which compression only makes longer.
    """
    import pyarrow.parquet as pq

    shape = schema.metadata_schema(dtype)
    return pq.ParquetWriter(
        target,
        shape,
        compression={name: "none" if name in plain else "zstd" for name in shape.names},
        use_dictionary=True,
        write_statistics=[name for name in shape.names if name not in NO_STATISTICS],
        write_page_checksum=True,
        version="2.6",
        store_schema=True,
    )


def append_metadata(
    descriptor: int,
    file: bytes,
    groups: list[VectorPage],
    sums: list[int],
    width: int,
    dtype: schema.StoredType,
) -> None:
    """Complete a shard: behind its vectors their blocks' checksums, the metadata, and the footer.

    Args:
        descriptor: the shard's file, which holds the vectors.
        sums: checksum of each block of vectors.
        file: content of the metadata columns' file, in the same row groups.
        groups: where the vectors are.
        width: of the vectors.
        dtype: of the vectors.
    """
    footer_size = int.from_bytes(file[-8:-4], "little")
    body = memoryview(file)[len(pages.MAGIC) : len(file) - 8 - footer_size]
    table = checksums.table(sums, width * np.dtype(dtype).itemsize)
    last = groups[-1]
    place = pages.align(last.end + pages.padding(last.rows, width, dtype))
    start = pages.align(place + len(table))
    footer = pages.join_footer(
        file[len(file) - 8 - footer_size : len(file) - 8],
        shift=start - len(pages.MAGIC),
        pages=groups,
        arrow_schema=schema.arrow_schema(width, dtype),
    )
    tail = footer + struct.pack("<I", len(footer)) + pages.MAGIC
    write_at(descriptor, memoryview(pages.MAGIC), 0)
    gaps = table.join((bytes(place - groups[-1].end), bytes(start - place - len(table))))
    write_at(descriptor, memoryview(gaps), groups[-1].end)
    write_at(descriptor, body, start)
    write_at(descriptor, memoryview(tail), start + len(body))
    # A group that was rolled back may have left bytes behind the end.
    os.ftruncate(descriptor, start + len(body) + len(tail))


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at a position of a file."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written
