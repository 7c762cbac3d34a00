"""Row groups of a Parquet file, written one by one or kept, bytes and all, from an older file.

A row group says where in the file its columns lie, not that they lie in order or side by side. So
a file that differs little from an older one begins with the older one's bytes; what is new stands
behind them, and the footer names what counts. What it no longer names is dead.

Format facts, from https://github.com/apache/parquet-format, ``src/main/thrift/parquet.thrift``:
field numbers of FileMetaData, RowGroup, ColumnChunk and ColumnMetaData.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from actstore.storage import column_chunks, pages, thrift
from actstore.storage.disk_errors import named
from actstore.storage.thrift import Field, ListOf, Struct, Wanted

if TYPE_CHECKING:
    import pyarrow as pa

_NOTE = b"actstore:row groups"
_LENGTH_BYTES = 4
_CHUNK = 4 << 20
_ROWS, _GROUPS, _NOTES = 3, 4, 5
_COLUMNS, _UNPACKED, _ORDINAL, _OFFSET, _SIZE = 1, 2, 7, 5, 6
_PLACE, _DETAILS = 2, 3
_OF_DETAILS = {"unpacked": 6, "size": 7, "data": 9, "dictionary": 11}
_WANTED: Wanted = {_GROUPS: {_COLUMNS: {_DETAILS: {}}}}


class RowGroup(NamedTuple):
    """A row group as it stands in a file."""

    rows: int
    size: int
    """Bytes of its columns."""
    description: bytes
    """What the footer says of it."""


class Encoded(NamedTuple):
    """Rows as Parquet has them, in no file yet."""

    rows: int
    columns: memoryview
    group: Struct
    """Their description as if they stood at a file's beginning."""


class RowGroups:
    """The row groups of a file that a :class:`RowGroupWriter` wrote.

    Raises:
        OSError, ArrowException: it cannot be read.
        KeyError, TypeError, ValueError: somebody else wrote it.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._raw = pa.OSFile(str(path))
        try:
            self._file = pq.ParquetFile(self._raw)
            self.notes: Mapping[bytes, bytes] = self._file.metadata.metadata or {}
            note = json.loads(self.notes[_NOTE])
            self.end = int(note["end"])
            """Where the columns end."""
            self.rows = [int(rows) for _, rows, _ in note["groups"]]
            """Rows of each."""
            self._sizes = [int(size) for _, _, size in note["groups"]]
            self._bounds = [0, *accumulate(int(length) for length, _, _ in note["groups"])]
            self._descriptions = self._described(int(note["start"]))
        except BaseException:
            self._raw.close()
            raise

    def _described(self, start: int) -> bytes:
        descriptor = self.descriptor
        size = os.fstat(descriptor).st_size
        end = size - len(pages.MAGIC) - _LENGTH_BYTES
        length = int.from_bytes(os.pread(descriptor, _LENGTH_BYTES, end), "little")
        found = os.pread(descriptor, self._bounds[-1], end - length + start)
        if len(found) < self._bounds[-1]:
            raise ValueError("the footer ends before its row groups")
        return found

    @property
    def descriptor(self) -> int:
        """The open file."""
        return int(self._raw.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()

    def __getitem__(self, number: int) -> RowGroup:
        first, last = self._bounds[number : number + 2]
        description = self._descriptions[first:last]
        return RowGroup(self.rows[number], self._sizes[number], description)

    def read(self, number: int, columns: list[str]) -> pa.Table:
        """Return columns of one row group."""
        found = self._file.read_row_group(number, columns=columns, use_threads=False)
        return found.replace_schema_metadata(None)  # the notes of all of the file


class RowGroupWriter:
    """Writes a Parquet file, row group by row group; a context that closes it.

    Args:
        path: a file that is there; what it holds is lost.
        columns: of the whole file.
        kept: the file that some row groups are kept of; its bytes come first.
        options: of ``pyarrow.parquet.ParquetWriter``.

    Raises:
        OSError: of the context, and with the path: it cannot be written.
    """

    def __init__(
        self, path: Path, columns: pa.Schema, kept: RowGroups | None = None, **options: Any
    ) -> None:
        self._path = path
        self._columns = columns
        self._kept = kept
        self._options = options
        self._end = len(pages.MAGIC) if kept is None else kept.end

    def __enter__(self) -> RowGroupWriter:
        with named(self._path), contextlib.ExitStack() as failing:
            self._file = failing.enter_context(self._path.open("r+b"))
            self._file.truncate(0)
            if self._kept is None:
                self._file.write(pages.MAGIC)
            else:
                _copy(self._kept.descriptor, self._file.fileno(), self._kept.end)
                self._file.seek(self._end)
            failing.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def encoded(self, table: pa.Table) -> Encoded:
        """Return rows as :meth:`add` takes them; several threads may do so at a time."""
        file = _encoded(table, self._options)
        footer = column_chunks.footer_of(file)
        (group,) = thrift.partly(footer, _WANTED)[_GROUPS].value.items
        # Where its columns begin says nothing, once one of them may lie elsewhere.
        for number in (_OFFSET, _ORDINAL):
            group.pop(number, None)
        end = len(file) - len(footer) - _LENGTH_BYTES - len(pages.MAGIC)
        return Encoded(table.num_rows, file[len(pages.MAGIC) : end], group)

    def add(self, encoded: Encoded) -> RowGroup:
        """Write a row group, to be named by :meth:`finish`."""
        size = sum(_of(chunk, "size") for chunk in self._placed(encoded))
        return RowGroup(encoded.rows, size, thrift.encode(encoded.group))

    def with_column(self, group: RowGroup, column: pa.Table) -> RowGroup:
        """Write one column of a row group anew, and return the group as it is with that.

        Args:
            group: of this file, or kept.
            column: a table of the one column, of as many rows.
        """
        place = self._columns.names.index(column.column_names[0])
        found = thrift.partly(group.description, {_COLUMNS: {}})
        chunks = found[_COLUMNS].value.items
        old: Struct = {_DETAILS: thrift.struct(thrift.partly(chunks[place][_DETAILS].value, {}))}
        (new,) = self._placed(self.encoded(column))
        chunks[place] = new
        more = _of(new, "size") - _of(old, "size")
        unpacked = _of(new, "unpacked") - _of(old, "unpacked")
        found[_UNPACKED] = thrift.i64(found[_UNPACKED].value + unpacked)
        if _SIZE in found:
            found[_SIZE] = thrift.i64(found[_SIZE].value + more)
        return RowGroup(group.rows, group.size + more, thrift.encode(found))

    def _placed(self, encoded: Encoded) -> list[Struct]:
        """Write columns; return their descriptions, which say where they are."""
        chunks: list[Struct] = encoded.group[_COLUMNS].value.items
        for chunk in chunks:
            chunk[_PLACE] = thrift.i64(0)
            details: Struct = chunk[_DETAILS].value
            for name in ("data", "dictionary"):
                number = _OF_DETAILS[name]
                if number in details:
                    place = details[number].value + self._end - len(pages.MAGIC)
                    details[number] = thrift.i64(place)
        with named(self._path):
            self._file.write(encoded.columns)
        self._end += len(encoded.columns)
        return chunks

    def finish(self, groups: Sequence[RowGroup], notes: Mapping[bytes, bytes]) -> None:
        """Write the footer.

        Args:
            groups: all row groups of the file, in the order of its rows.
            notes: keys and values that the footer shall have.
        """
        import pyarrow as pa

        empty = _encoded(pa.Table.from_batches([], self._columns), self._options)
        fields = thrift.partly(column_chunks.footer_of(empty), {})
        fields[_ROWS] = thrift.i64(sum(group.rows for group in groups))
        before = thrift.part(fields, 0, _GROUPS) + thrift.list_head(len(groups), thrift.STRUCT)
        index = {
            "start": len(before),
            "end": self._end,
            "groups": [(len(group.description), group.rows, group.size) for group in groups],
        }
        added = {**notes, _NOTE: json.dumps(index, separators=(",", ":")).encode()}
        known = thrift.decode_list(fields[_NOTES].value)
        pairs = [{1: thrift.binary(key), 2: thrift.binary(note)} for key, note in added.items()]
        kept = thrift.encode_list(ListOf(known.type, [*known.items, *pairs]))
        fields[_NOTES] = Field(thrift.LIST, kept)
        descriptions = (group.description for group in groups)
        footer = b"".join((before, *descriptions, thrift.part(fields, _GROUPS)))
        with named(self._path):
            self._file.write(footer + len(footer).to_bytes(_LENGTH_BYTES, "little") + pages.MAGIC)
            self._file.flush()


def _encoded(table: pa.Table, options: Mapping[str, Any]) -> memoryview:
    """Return a table as a Parquet file of one row group, or of none where it has no rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = pa.BufferOutputStream()
    with pq.ParquetWriter(target, table.schema, **options) as writer:
        if table.num_rows:
            writer.write_table(table, row_group_size=table.num_rows)
    return memoryview(target.getvalue())


def _of(chunk: Struct, name: str) -> int:
    return int(chunk[_DETAILS].value[_OF_DETAILS[name]].value)


def _copy(source: int, target: int, size: int) -> None:
    """Copy the first bytes of one open file to another.

    Raises:
        OSError: one of them fails.
        EOFError: there are fewer.
    """
    buffer = memoryview(bytearray(min(size, _CHUNK)))
    done = 0
    while done < size:
        count = os.preadv(source, [buffer[: size - done]], done)
        if not count:
            raise EOFError(f"the file ends at byte {done} of {size}")
        part = buffer[:count]
        while part:
            written = os.pwrite(target, part, done)
            part = part[written:]
            done += written
