"""Metadata columns of shards whose footers differ in values alone, read as if they were one file.

Shards of many layers hold columns of the same sizes at the same places, and most of them the same
bytes. To follow a footer of 25 columns takes any reader far longer than to read what it speaks of;
so one is followed for all that are like it. What differs among them becomes one Parquet file in
memory, with a row group for each shard; what does not is read of one shard, and repeated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage import arrow_numbers, column_chunks, pages, shard_columns, thrift
from actstore.storage.checks import read_tail
from actstore.storage.column_chunks import ColumnChunk
from actstore.storage.manifest import ShardEntry
from actstore.storage.remembered import Remembered
from actstore.storage.thrift import Field, Struct

if TYPE_CHECKING:
    import pyarrow as pa

_LARGEST = 64 << 10
"""Bytes of metadata up to which a shard is held in memory beside others."""
_AT_ONCE = 8 << 20
"""Bytes of metadata that are gone through at a time, of which there are copies."""
_FEW = 8
"""Shards that must be alike for following a footer in Python to pay."""
_SHAPES = 16
"""Footers that are followed among shards of one size, at most."""
_VERSION, _SCHEMA, _ROWS, _GROUPS = 1, 2, 3, 4
_COLUMNS, _DETAILS = 1, 3
_PATH, _DATA_PAGE, _DICTIONARY_PAGE, _STATISTICS = 3, 9, 11, 12
_UNCOMPRESSED_SIZE, _SIZE = 6, 7
_LEAST_AND_MOST = (1, 2, 5, 6)
"""Fields of statistics that hold a value, as Parquet lays it out."""
_END = struct.Struct("<I4s")


class Alike(NamedTuple):
    """Shards that were read together."""

    numbers: list[int]
    """Which of the shards that were asked for."""
    table: pa.Table
    """Their columns, in this order."""


class _Column(NamedTuple):
    """Where a column is in each of the shards."""

    place: int
    """In the bytes behind the vectors."""
    chunk: ColumnChunk
    element: Struct
    """What the footer says of its type."""


class _Shape(NamedTuple):
    """What shards have in common that are like one of them."""

    start: int
    """First byte of the footer, in the bytes behind the vectors."""
    footer: np.ndarray
    """Of that one, with what follows: uint8."""
    free: np.ndarray
    """Bytes of it that are values of statistics, and may be others: bool."""
    version: Field
    root: Struct
    """The schema's element above the columns."""
    columns: dict[str, _Column]

    def is_of(self, tails: np.ndarray) -> np.ndarray:
        """Say which of some shards of this size have it: bool[shards]."""
        there = tails[:, self.start :]
        equal = there == self.footer
        equal |= self.free
        return np.asarray(equal.all(axis=1))


_shapes: Remembered[tuple[int, int], tuple[_Shape, ...]] = Remembered(256, len)
"""By the size of a shard and where its vectors end."""


def read_columns(root: Path, entries: Sequence[ShardEntry], names: list[str]) -> list[Alike]:
    """Read some metadata columns of those shards that are like several others.

    Nothing is said of the others, which may be missing or damaged.

    Raises:
        CorruptStoreError: a shard is not what the manifest says.
    """
    found: list[Alike] = []
    for numbers in _of_one_size(entries):
        tails = _tails(root, [entries[number] for number in numbers])
        if tails is None:
            continue
        for shape, chosen in _sorted_by_shape(tails, entries[numbers[0]]):
            first = entries[numbers[chosen[0]]]
            table = _table(root, first, shape, tails[chosen], names)
            if table is not None:
                found.append(Alike([numbers[each] for each in chosen], table))
    return found


def _sorted_by_shape(tails: np.ndarray, entry: ShardEntry) -> Iterator[tuple[_Shape, np.ndarray]]:
    """Yield which of some shards, of the size of one of them, are alike; the rest is left out."""
    key = (entry.bytes, entry.vectors_end)
    known = _shapes.get(key) or ()
    left = np.arange(len(tails))
    for shape in known:
        alike = shape.is_of(tails[left])
        if alike.any():
            yield shape, left[alike]
        left = left[~alike]
    for _ in range(_SHAPES):
        if len(left) < _FEW:
            return
        new = _shape(bytes(tails[left[0]]), entry)
        if new is None:
            return
        alike = new.is_of(tails[left])
        if np.count_nonzero(alike) >= _FEW:
            known = (new, *known)[:_SHAPES]
            _shapes.put(key, known)
            yield new, left[alike]
        left = left[~alike]


def _of_one_size(entries: Sequence[ShardEntry]) -> list[list[int]]:
    """Return numbers of shards that may be alike, as far as the manifest tells."""
    found: dict[tuple[int, int, int], list[int]] = {}
    for number, entry in enumerate(entries):
        if entry.tail is None or len(entry.pages) != 1:  # archived shards have none
            continue
        start = entry.vectors_end
        if entry.bytes - start <= _LARGEST:
            found.setdefault((entry.bytes, start, entry.rows), []).append(number)
    parts = []
    for (size, start, _), numbers in found.items():
        most = max(_FEW, _AT_ONCE // (size - start))
        parts += [numbers[at : at + most] for at in range(0, len(numbers), most)]
    return [part for part in parts if len(part) >= _FEW]


def _tails(root: Path, entries: Sequence[ShardEntry]) -> np.ndarray | None:
    """Return what stands behind the vectors, uint8[shards, bytes]; None: not of each of them."""
    found = []
    for entry in entries:
        try:
            descriptor = os.open(f"{root}/{entry.path}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                found.append(read_tail(root, entry, descriptor))
            finally:
                os.close(descriptor)
        except OSError:
            return None
    return np.frombuffer(b"".join(found), np.uint8).reshape(len(found), -1)


def _shape(tail: bytes, entry: ShardEntry) -> _Shape | None:
    """Follow the footer of a shard; None where it is none of those that this module knows.

    Shards are like it if their footers differ in nothing but the values in statistics, of which
    the lengths are no part: whoever follows them then meets the same fields at the same places.
    """
    size, magic = _END.unpack(tail[-_END.size :])
    start = len(tail) - _END.size - size
    if magic != pages.MAGIC or start < 0:
        return None
    footer = tail[start : start + size]
    try:
        found = thrift.decode(footer)
        if thrift.encode(found) != footer:
            return None
        (group,) = found[_GROUPS].value.items
        above, *elements = found[_SCHEMA].value.items
        rows = found[_ROWS].value
        # All but the vectors' element are no group, and none holds others.
        leaves = {b".".join((each[4].value,)): each for each in elements if 1 in each}
        columns = {}
        for item in group[_COLUMNS].value.items:
            details = item[_DETAILS].value
            (name, *within) = details[_PATH].value.items
            if within:
                continue
            columns[name.decode()] = _column(details, leaves[name], entry.vectors_end)
        marked = thrift.encode(_with_other_values(found))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    if rows != entry.rows or any(
        column.place < 0 or column.place + column.chunk.size > start for column in columns.values()
    ):
        return None
    whole = np.frombuffer(tail, np.uint8, offset=start)
    free = np.zeros(len(whole), bool)
    free[:size] = whole[:size] != np.frombuffer(marked, np.uint8)
    return _Shape(start, whole, free, found[_VERSION], above, columns)


def _column(details: Struct, element: Struct, start: int) -> _Column:
    """Return where a column is, and its description without statistics."""
    data = details[_DATA_PAGE].value
    first = details[_DICTIONARY_PAGE].value if _DICTIONARY_PAGE in details else data
    chunk = ColumnChunk(
        data=b"",
        size=details[_SIZE].value,
        first_page=data - first,
        unpacked=details[_UNCOMPRESSED_SIZE].value,
        details=column_chunks.around_offsets(
            {number: field for number, field in details.items() if number != _STATISTICS}
        ),
    )
    return _Column(first - start, chunk, element)


def _with_other_values(footer: Struct) -> Struct:
    """Return a footer whose statistics have other values, different in each byte."""
    (group,) = footer[_GROUPS].value.items
    columns = []
    for item in group[_COLUMNS].value.items:
        details = dict(item[_DETAILS].value)
        if _STATISTICS in details:
            values = {
                number: Field(field.type, bytes(255 - byte for byte in field.value))
                if number in _LEAST_AND_MOST
                else field
                for number, field in details[_STATISTICS].value.items()
            }
            details[_STATISTICS] = thrift.struct(values)
        columns.append({**item, _DETAILS: thrift.struct(details)})
    changed = {**group, _COLUMNS: thrift.list_of(thrift.STRUCT, columns)}
    return {**footer, _GROUPS: thrift.list_of(thrift.STRUCT, [changed])}


def _table(
    root: Path, first: ShardEntry, shape: _Shape, tails: np.ndarray, names: list[str]
) -> pa.Table | None:
    """Return columns of shards of one shape; None: they are not to be read so."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not shape.columns.keys() >= set(names):
        return None
    differing = [name for name in names if not _is_same(_chunks(tails, shape.columns[name]))]
    same = [name for name in names if name not in differing]
    found: dict[str, pa.ChunkedArray] = {}
    try:
        if same:
            one = shard_columns.read_columns(root, first, same)
            rows = arrow_numbers.array(np.tile(np.arange(first.rows), len(tails)))
            found.update(zip(same, one.combine_chunks().take(rows).columns, strict=True))
        if differing:
            file = _file(shape, tails, first.rows, differing)
            with pq.ParquetFile(pa.BufferReader(file)) as reader:
                table = reader.read(use_threads=False)
            found.update(zip(differing, table.combine_chunks().columns, strict=True))
        wanted = pa.schema([schema.metadata_schema().field(name) for name in names])
        return pa.table({name: found[name] for name in names}).cast(wanted)
    except (OSError, pa.ArrowException, ValueError):
        return None


def _chunks(tails: np.ndarray, column: _Column) -> np.ndarray:
    return tails[:, column.place : column.place + column.chunk.size]


def _is_same(chunks: np.ndarray) -> bool:
    return bool((chunks == chunks[0]).all())


def _file(shape: _Shape, tails: np.ndarray, rows: int, names: list[str]) -> bytes:
    """Return some columns as a Parquet file of their own, with a row group for each shard."""
    columns = [shape.columns[name] for name in names]
    sizes = [column.chunk.size for column in columns]
    body = [_chunks(tails, column).tobytes() for column in columns]
    starts = list(accumulate((len(part) for part in body), initial=len(pages.MAGIC)))
    unpacked = sum(column.chunk.unpacked for column in columns)
    facts: Struct = {
        _COLUMNS: Field(thrift.LIST, None),
        2: thrift.i64(unpacked),
        3: thrift.i64(rows),
    }
    head = thrift.part(facts, 0, _COLUMNS) + thrift.list_head(len(columns), thrift.STRUCT)
    tail = thrift.part(facts, _COLUMNS)
    groups = bytearray()
    for number in range(len(tails)):
        groups += head
        for column, start, size in zip(columns, starts, sizes, strict=False):
            groups += column.chunk.described(start + number * size)
        groups += tail
    above = {**shape.root, 5: thrift.i32(len(columns))}
    elements = thrift.list_of(thrift.STRUCT, [above, *(column.element for column in columns)])
    whole: Struct = {
        _VERSION: shape.version,
        _SCHEMA: elements,
        _ROWS: thrift.i64(rows * len(tails)),
        _GROUPS: Field(
            thrift.LIST, thrift.Encoded(thrift.list_head(len(tails), thrift.STRUCT) + groups)
        ),
    }
    footer = thrift.encode(whole)
    return b"".join((pages.MAGIC, *body, footer, _END.pack(len(footer), pages.MAGIC)))
