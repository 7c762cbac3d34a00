"""Vector pages: one plain, uncompressed Parquet page per row group, written by hand and mappable.

pyarrow encodes the metadata columns; this module places the vectors, and
:mod:`actstore.storage.footers` makes of both one ordinary Parquet file. For a list of fixed size
without nulls the repetition and definition levels are the same for every row, so a data page is
a constant prefix and the vectors' own bytes, and whoever knows where those start can map them.

Format facts, from https://github.com/apache/parquet-format:

- ``src/main/thrift/parquet.thrift``: field numbers of PageHeader and DataPageHeader.
- ``Encodings.md``: RLE runs are ``varint(count << 1)`` and the value; in a version 1 data
  page each kind of level follows its four-byte length. PLAIN values are little-endian.
- ``README.md`` (Checksumming): the CRC-32 covers the page without its header.

Pages of int8, which has no plain form of one byte, are in :mod:`actstore.storage.int8_pages`.
"""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage import int8_pages, thrift

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAGIC = b"PAR1"
ALIGNMENT = 64
"""Values start at a multiple of this many bytes, so that every engine takes them as they are."""

LONGEST_HEADER = 64
"""More bytes than a page header of ours has."""

_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_DATA_PAGE, _DATA_PAGE_V2 = 0, 3


class VectorPage(NamedTuple):
    """Where one row group's vectors lie in the file."""

    offset: int
    """First byte of the page header; of int8, of the dictionary's before it."""
    values: int
    """First byte of the values."""
    rows: int
    end: int
    """First byte after the values."""


def align(position: int) -> int:
    """Return the next aligned position."""
    return -(-position // ALIGNMENT) * ALIGNMENT


def levels(rows: int, width: int) -> bytes:
    """Return a page's level section for ``rows`` lists of ``width`` values, none null."""
    if width == 1:
        repetition = thrift.varint(rows << 1) + b"\0"
    else:
        repetition = (b"\x02\0" + thrift.varint((width - 1) << 1) + b"\1") * rows
    definition = thrift.varint((rows * width) << 1) + b"\1"
    return (
        struct.pack("<I", len(repetition))
        + repetition
        + struct.pack("<I", len(definition))
        + definition
    )


@lru_cache(maxsize=64)  # of tens of thousands of rows, and asked for by each small shard
def prefix_space(rows: int, width: int, dtype: schema.StoredType) -> int:
    """Return enough bytes for all that stands before the values of up to ``rows`` rows."""
    more = int8_pages.LEAD_BYTES if dtype == "int8" else 0
    return align(len(levels(rows, width)) + LONGEST_HEADER + more)


def lead(rows: int, width: int, dtype: schema.StoredType) -> bytes:
    """Return what stands between a page's header and its values."""
    found = levels(rows, width)
    return found + int8_pages.run_head(rows * width) if dtype == "int8" else found


def padding(rows: int, width: int, dtype: schema.StoredType) -> int:
    """Return how many bytes of nothing follow a page's values."""
    return -(rows * width) % int8_pages.GROUP if dtype == "int8" else 0


def head(rows: int, width: int, dtype: schema.StoredType, body: int, crc: int) -> bytes:
    """Return all that stands before a page's values.

    Args:
        rows: of the page.
        width: of its vectors.
        dtype: of its vectors.
        body: bytes of the page without its header.
        crc: CRC-32 of these.
    """
    encoding = _RLE_DICTIONARY if dtype == "int8" else _PLAIN
    found = page_header(rows, width, body, crc, encoding) + lead(rows, width, dtype)
    return int8_pages.dictionary_page() + found if dtype == "int8" else found


def page_header(rows: int, width: int, body_size: int, crc: int, encoding: int = _PLAIN) -> bytes:
    """Return the page header: version 1 data page, PLAIN values, RLE levels, CRC-32."""
    data = {
        1: thrift.i32(rows * width),
        2: thrift.i32(encoding),
        3: thrift.i32(_RLE),
        4: thrift.i32(_RLE),
    }
    signed = crc - (1 << 32) if crc >> 31 else crc
    return thrift.encode(
        {
            1: thrift.i32(_DATA_PAGE),
            2: thrift.i32(body_size),
            3: thrift.i32(body_size),
            4: thrift.i32(signed),
            5: thrift.struct(data),
        }
    )


def crc_of_header(before: bytes, rows: int, width: int, body_size: int) -> int | None:
    """Return the CRC-32 in the page header that ``before`` ends with.

    None where that is no header as :func:`page_header` makes it for such a page.
    """
    shortest = len(page_header(rows, width, body_size, 0))
    for length in range(shortest, shortest + 5):  # the checksum takes one byte to five
        header = before[-length:]
        try:
            found = thrift.decode(header)
            crc = int(found[4].value) & 0xFFFFFFFF
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if header == page_header(rows, width, body_size, crc):
            return crc
    return None


def stored_type(vector: object) -> schema.StoredType | None:
    """Return the stored type of an Arrow type of vectors; None where it is none of ours."""
    value = str(getattr(vector, "value_type", ""))
    known: dict[str, schema.StoredType] = {"halffloat": "float16", "float": "float32"}
    return "int8" if value == "int8" else known.get(value)


def mapped_pages(metadata: pq.FileMetaData, file: BinaryIO) -> list[tuple[int, int]] | None:
    """Return ``(offset of the values, rows)`` of each row group's vectors.

    ``None`` when any row group's vectors cannot be mapped (compressed, encoded, split into
    several pages, outside the file); such a file still reads through pyarrow.

    Args:
        metadata: the file's footer.
        file: the same file, open for reading; only page headers are read.
    """
    shape = _vector_shape(metadata)
    if shape is None:
        return None
    leaf, width, dtype = shape
    item_size = np.dtype(dtype).itemsize
    encodings = {"PLAIN", "RLE", "RLE_DICTIONARY"} if dtype == "int8" else {"PLAIN", "RLE"}
    file_size = file.seek(0, os.SEEK_END)
    found: list[tuple[int, int]] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunk = group.column(leaf)
        size = group.num_rows * width * item_size
        start, chunk_size = chunk.data_page_offset, chunk.total_compressed_size
        if dtype == "int8":
            if not chunk.has_dictionary_page or chunk.dictionary_page_offset < len(MAGIC):
                return None
            if not int8_pages.has_dictionary(file, chunk.dictionary_page_offset, start):
                return None
            chunk_size -= start - chunk.dictionary_page_offset
        elif chunk.has_dictionary_page:
            return None
        end = start + chunk_size
        if (
            chunk.compression != "UNCOMPRESSED"
            or not set(chunk.encodings) <= encodings
            or chunk.num_values != group.num_rows * width
            or start < len(MAGIC)
            or end > file_size
            or not _one_page(file, start, chunk_size, group.num_rows, width, dtype)
        ):
            return None
        found.append((end - padding(group.num_rows, width, dtype) - size, group.num_rows))
    return found


def _vector_shape(metadata: pq.FileMetaData) -> tuple[int, int, schema.StoredType] | None:
    """Return the vector column's leaf number, width and stored type."""
    arrow_schema = metadata.schema.to_arrow_schema()
    index = arrow_schema.get_field_index(schema.VECTOR)
    if index < 0:
        return None
    type_ = arrow_schema.field(index).type
    dtype = stored_type(type_)
    width = getattr(type_, "list_size", 0)
    if dtype is None or width < 1:
        return None
    for number in range(metadata.num_columns):
        if metadata.schema.column(number).path.split(".")[0] == schema.VECTOR:
            return number, width, dtype
    return None


def _one_page(
    file: BinaryIO, offset: int, chunk_size: int, rows: int, width: int, dtype: schema.StoredType
) -> bool:
    """Say whether a column chunk is one page of values that end it byte by byte, none left out."""
    values_size = rows * width * np.dtype(dtype).itemsize
    file.seek(offset)
    head = file.read(512)
    try:
        header, length = thrift.decode_prefix(head)
        page_type, body = header[1].value, header[3].value
        if page_type == _DATA_PAGE:
            encoding = header[5].value[2].value
            repetition = _level_size(file, offset + length)
            levels_size = repetition + _level_size(file, offset + length + repetition)
        elif page_type == _DATA_PAGE_V2:
            details = header[8].value
            encoding = details[4].value
            levels_size = details[5].value + details[6].value
        else:
            return False
    except (ValueError, KeyError, TypeError, AttributeError, struct.error):
        return False
    if dtype == "int8":
        run = int8_pages.run_head(rows * width)
        file.seek(offset + length + levels_size)
        if file.read(len(run)) != run:
            return False
        values_size += len(run) + padding(rows, width, dtype)
    # A null takes a level and no value, so the size tells whether there is one.
    whole = bool(length + body == chunk_size and levels_size + values_size == body)
    return whole and encoding == (_RLE_DICTIONARY if dtype == "int8" else _PLAIN)


def _level_size(file: BinaryIO, offset: int) -> int:
    """Return the size of a version 1 page's levels, their four-byte length included."""
    file.seek(offset)
    return 4 + int(struct.unpack("<I", file.read(4))[0])
