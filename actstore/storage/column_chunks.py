"""Metadata columns as they stand in a shard: encoded once for all shards that have the same.

Shards of many layers hold the same questions, labels and names. pyarrow encodes each column that
differs from what it encoded before; what other shards have too is copied, offsets apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from actstore import schema
from actstore.storage import thrift
from actstore.storage.remembered import Remembered
from actstore.storage.thrift import Struct, Wanted

if TYPE_CHECKING:
    import pyarrow as pa

NO_STATISTICS = frozenset({"question", "oracle", "prediction", "extra", "source"})
"""Long texts: they would put their minimum and maximum into every footer and help no filter."""
_KEPT_BYTES = 64 << 20
"""Of columns and their encoding, that are kept for other shards."""
_LONGEST_KEPT = 4 << 20
_GROUPS, _COLUMNS, _DETAILS = 4, 1, 3
_WANTED: Wanted = {_GROUPS: {_COLUMNS: {_DETAILS: {}}}}
_UNCOMPRESSED_SIZE, _SIZE, _DATA_PAGE, _DICTIONARY_PAGE = 6, 7, 9, 11


class ColumnChunk(NamedTuple):
    """One column of one row group, encoded, and its details in a footer but for its place."""

    data: bytes
    """Empty where it is elsewhere."""
    size: int
    first_page: int
    """Offset of the first page of data within it; a dictionary comes before."""
    unpacked: int
    """Bytes before compression."""
    details: tuple[bytes, bytes, bytes]
    """Before, between and behind the offsets of data and dictionary; nothing between them where
    there is no dictionary."""

    def described(self, place: int) -> bytes:
        """Return a footer's description of the chunk where it lies at ``place``."""
        before, between, behind = self.details
        data = thrift.varint(place + self.first_page << 1)
        if not between:
            return before + data + behind
        return b"".join((before, data, between, thrift.varint(place << 1), behind))


class ColumnGroup(NamedTuple):
    """All metadata columns of one row group, one behind the other."""

    rows: int
    chunks: tuple[ColumnChunk, ...]

    @property
    def size(self) -> int:
        """Bytes of all chunks."""
        return sum(chunk.size for chunk in self.chunks)

    def without_data(self) -> ColumnGroup:
        """Return the same once its bytes are elsewhere."""
        return self._replace(chunks=tuple(chunk._replace(data=b"") for chunk in self.chunks))


_NEVER_KEPT = frozenset({"norm", "scale"})
"""Numbers of each shard's own; and floats that are equal need not be of the same bits."""


def _weight(kept: tuple[pa.Array, ColumnChunk]) -> int:
    column, chunk = kept
    return int(column.get_total_buffer_size()) + len(chunk.data)  # a slice keeps the whole


_kept: Remembered[tuple[str, int, int], tuple[pa.Array, ColumnChunk]] = Remembered(
    _KEPT_BYTES, _weight
)
"""Columns that were encoded lately, by name, rows and bytes."""


def _lately(name: str, column: pa.Array) -> ColumnChunk | None:
    """Return a column as it was encoded lately; None where it was not."""
    found = _kept.get((name, len(column), column.nbytes))
    if found is not None and (found[0] is column or found[0].equals(column)):
        return found[1]
    return None


def _keep(name: str, column: pa.Array, chunk: ColumnChunk) -> None:
    if name not in _NEVER_KEPT and _weight((column, chunk)) <= _LONGEST_KEPT:
        _kept.put((name, len(column), column.nbytes), (column, chunk))


def encoded(table: pa.Table) -> ColumnGroup:
    """Encode the metadata of one row group.

    Raises:
        ValueError: the columns are not those of the schema, type by type.
    """
    shape = schema.metadata_schema("int8" if schema.SCALE in table.column_names else "float32")
    if not table.schema.equals(shape):  # else the footer would say of them what they are not
        raise ValueError(f"metadata must have the columns {shape}; it has {table.schema}")
    # Arrow copies even one chunk, and knows a column that it is given again only uncopied.
    columns = [
        column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        for column in table.itercolumns()
    ]
    names = table.column_names
    found = [_lately(name, column) for name, column in zip(names, columns, strict=True)]
    missing = [at for at, chunk in enumerate(found) if chunk is None]
    if missing:
        for at, chunk in zip(missing, _encode(table.select(missing)), strict=True):
            found[at] = chunk
            _keep(names[at], columns[at], chunk)
    return ColumnGroup(table.num_rows, tuple(chunk for chunk in found if chunk is not None))


def written(table: pa.Table, rows: int) -> memoryview:
    """Return columns as a Parquet file of their own, with ``rows`` in each row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = _of_one_value(table)
    names = table.column_names
    target = pa.BufferOutputStream()
    with pq.ParquetWriter(
        target,
        table.schema,
        compression={name: "none" if name in plain else "zstd" for name in names},
        use_dictionary=True,
        write_statistics=[name for name in names if name not in NO_STATISTICS],
        write_page_checksum=True,
        version="2.6",
        store_schema=True,
    ) as writer:
        if rows:
            writer.write_table(table, row_group_size=rows)
    return memoryview(target.getvalue())


def footer_of(file: memoryview) -> bytes:
    """Return the footer of a whole Parquet file."""
    size = int.from_bytes(file[-8:-4], "little")
    return bytes(file[-8 - size : -8])


def _encode(table: pa.Table) -> Iterable[ColumnChunk]:
    file = written(table, table.num_rows)
    (group,) = thrift.partly(footer_of(file), _WANTED)[_GROUPS].value.items
    for chunk in group[_COLUMNS].value.items:
        details: Struct = chunk[_DETAILS].value
        data = details[_DATA_PAGE].value
        start = details[_DICTIONARY_PAGE].value if _DICTIONARY_PAGE in details else data
        size = details[_SIZE].value
        yield ColumnChunk(
            data=bytes(file[start : start + size]),
            size=size,
            first_page=data - start,
            unpacked=details[_UNCOMPRESSED_SIZE].value,
            details=around_offsets(details),
        )


def around_offsets(details: Struct) -> tuple[bytes, bytes, bytes]:
    """Return the description of a column chunk in pieces, between which its offsets belong.

    Page indexes are left out: they stay behind.
    """
    chunk = {2: thrift.i64(0), _DETAILS: thrift.struct(details)}
    before = thrift.part(chunk, 0, _DETAILS) + thrift.part(details, 0, _DATA_PAGE)
    between, last = b"", _DATA_PAGE
    if _DICTIONARY_PAGE in details:
        between, last = thrift.part(details, _DATA_PAGE, _DICTIONARY_PAGE), _DICTIONARY_PAGE
    return before, between, thrift.part(details, last) + thrift.part(chunk, _DETAILS)


def _of_one_value(table: pa.Table) -> set[str]:
    """Return the columns of a table that hold one value in all rows: compression lengthens them.

    Not those that hold nothing: without compression their page of a dictionary has no bytes, at
    which fastparquet gives up.
    """
    return {
        name
        for name, column in zip(table.column_names, table.itercolumns(), strict=True)
        if len(column) and column[0].is_valid and is_constant(column)
    }


def is_constant(column: pa.ChunkedArray) -> bool:
    """Say whether a column that is not empty holds the same in all rows, null or a value."""
    return bool(column.slice(1).equals(column.slice(0, len(column) - 1)))
