"""Footers of shards: what pyarrow says of the metadata columns, and the vectors among them.

Nothing but places, sizes and row counts differs between two shards of one width and type, so
what stands around these is made once.

Format facts, from https://github.com/apache/parquet-format, ``src/main/thrift/parquet.thrift``:
field numbers of FileMetaData, SchemaElement, RowGroup, ColumnChunk and ColumnMetaData; and
``LogicalTypes.md``: LIST is a group, a repeated group ``list`` and its ``element``; FLOAT16
annotates a FIXED_LEN_BYTE_ARRAY of two bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache, lru_cache

from actstore import schema
from actstore.storage import column_chunks, int8_pages, pages, thrift
from actstore.storage.column_chunks import ColumnGroup
from actstore.storage.pages import VectorPage
from actstore.storage.thrift import Encoded, Field, ListOf, Struct

_FIXED_LEN_BYTE_ARRAY, _FLOAT, _INT32 = 7, 4, 1
_REQUIRED, _REPEATED = 0, 2
_CONVERTED_LIST = 3
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_UNCOMPRESSED = 0
_PATH = [schema.VECTOR.encode(), b"list", b"element"]
_PHYSICAL = {"float16": _FIXED_LEN_BYTE_ARRAY, "float32": _FLOAT, "int8": _INT32}
_SCHEMA, _ROWS, _GROUPS, _KEYS, _ORDERS = 2, 3, 4, 5, 7


def footer(
    width: int,
    dtype: schema.StoredType,
    vectors: Sequence[VectorPage],
    groups: Sequence[ColumnGroup],
    start: int,
) -> bytes:
    """Return the footer of a shard.

    Args:
        width: of its vectors.
        dtype: of its vectors.
        vectors: one page for each row group.
        groups: the metadata of the same row groups.
        start: where the first of these lies, and the others behind it.
    """
    before, between, behind = _frame(width, dtype)
    parts = [before, thrift.integer(sum(group.rows for group in groups)), between]
    parts.append(thrift.list_head(len(groups), thrift.STRUCT))
    for page, group in zip(vectors, groups, strict=True):
        parts += _row_group(page, group, start, width, dtype)
        start += group.size
    return b"".join((*parts, behind))


def _row_group(
    page: VectorPage,
    group: ColumnGroup,
    start: int,
    width: int,
    dtype: schema.StoredType,
) -> list[bytes]:
    descriptions = []
    for chunk in group.chunks:
        descriptions.append(chunk.described(start))
        start += chunk.size
    size = page.end + pages.padding(page.rows, width, dtype) - page.offset
    descriptions.insert(schema.vector_index(), _vector_chunk(page, size, dtype, width))
    # No offset of the whole: its chunks do not lie side by side.
    rest: Struct = {
        1: Field(thrift.LIST, None),
        2: thrift.i64(size + sum(chunk.unpacked for chunk in group.chunks)),
        3: thrift.i64(group.rows),
        6: thrift.i64(size + group.size),
    }
    head = thrift.part(rest, 0, 1) + thrift.list_head(len(descriptions), thrift.STRUCT)
    return [head, *descriptions, thrift.part(rest, 1)]


def _vector_chunk(page: VectorPage, size: int, dtype: schema.StoredType, width: int) -> bytes:
    encodings = [_PLAIN, _RLE, _RLE_DICTIONARY] if dtype == "int8" else [_PLAIN, _RLE]
    details: Struct = {
        1: thrift.i32(_PHYSICAL[dtype]),
        2: thrift.list_of(thrift.I32, encodings),
        3: thrift.list_of(thrift.BINARY, list(_PATH)),
        4: thrift.i32(_UNCOMPRESSED),
        5: thrift.i64(page.rows * width),
        6: thrift.i64(size),
        7: thrift.i64(size),
        9: thrift.i64(page.offset),
    }
    if dtype == "int8":
        details[9] = thrift.i64(page.offset + len(int8_pages.dictionary_page()))
        details[11] = thrift.i64(page.offset)
    return thrift.encode({2: thrift.i64(0), 3: thrift.struct(details)})


@lru_cache(maxsize=64)
def _frame(width: int, dtype: schema.StoredType) -> tuple[bytes, bytes, bytes]:
    """Return what stands before the number of rows, before the row groups, and behind these."""
    found = thrift.partly(_metadata_footer(dtype), {})
    index = schema.vector_index()
    found[_SCHEMA] = Field(thrift.LIST, _with_vectors(found[_SCHEMA].value, index, dtype))
    found[_ORDERS] = Field(thrift.LIST, _with_order(found[_ORDERS].value, index))
    found[_KEYS] = Field(thrift.LIST, _with_arrow_schema(found[_KEYS].value, width, dtype))
    return (
        thrift.part(found, 0, _ROWS),
        thrift.part(found, _ROWS, _GROUPS),
        thrift.part(found, _GROUPS),
    )


@cache
def _metadata_footer(dtype: schema.StoredType) -> bytes:
    """Return the footer that pyarrow gives to a file of metadata columns without rows."""
    empty = schema.metadata_schema(dtype).empty_table()
    return column_chunks.footer_of(column_chunks.written(empty, 0))


def _with_vectors(elements: Encoded, index: int, dtype: schema.StoredType) -> Encoded:
    """Return a schema's elements with those of the vectors among them."""
    found = thrift.decode_list(elements)
    found.items[0][5] = thrift.i32(found.items[0][5].value + 1)
    found.items[index + 1 : index + 1] = _schema_elements(dtype)
    return thrift.encode_list(found)


def _schema_elements(dtype: schema.StoredType) -> list[Struct]:
    group: Struct = {
        3: thrift.i32(_REQUIRED),
        4: thrift.binary(_PATH[0]),
        5: thrift.i32(1),
        6: thrift.i32(_CONVERTED_LIST),
        10: thrift.struct({3: thrift.struct({})}),
    }
    repeated: Struct = {3: thrift.i32(_REPEATED), 4: thrift.binary(_PATH[1]), 5: thrift.i32(1)}
    leaf: Struct = {
        1: thrift.i32(_PHYSICAL[dtype]),
        3: thrift.i32(_REQUIRED),
        4: thrift.binary(_PATH[2]),
    }
    if dtype == "float16":
        leaf[2] = thrift.i32(2)
        leaf[10] = thrift.struct({15: thrift.struct({})})
    elif dtype == "int8":
        leaf.update(int8_pages.annotation())
    return [group, repeated, leaf]


def _with_order(orders: Encoded, index: int) -> Encoded:
    """Return the orders of all columns with that of the vectors among them."""
    found = thrift.decode_list(orders)
    found.items.insert(index, {1: thrift.struct({})})
    return thrift.encode_list(found)


def _with_arrow_schema(existing: Encoded, width: int, dtype: schema.StoredType) -> Encoded:
    """Return a footer's keys and values with the schema as Arrow has it."""
    key = b"ARROW:schema"
    kept = [item for item in thrift.decode_list(existing).items if item[1].value != key]
    encoded = base64.b64encode(schema.arrow_schema(width, dtype).serialize().to_pybytes())
    kept.append({1: thrift.binary(key), 2: thrift.binary(encoded)})
    return thrift.encode_list(ListOf(thrift.STRUCT, kept))
