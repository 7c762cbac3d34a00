"""Metadata of chosen rows as Arrow tables, read from the snapshot's metadata file."""

from __future__ import annotations

import difflib
import itertools
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore import schema
from actstore.errors import NotInStoreError
from actstore.querying import own_sql
from actstore.storage import arrow_numbers, own_columns
from actstore.storage.disk_errors import reading

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from actstore.storage.snapshot import Snapshot

ROW_ID = "row_id"
_CODED = frozenset(
    {"dataset", "split", "task", "mode", "variant", "label", "pooling", "region", "token_role"}
)
"""Columns of few values that come again and again."""
_CODED_ROWS = 20_000_000
"""Stores of more rows are left to SQL: the codes of a column take four bytes a row."""

_AT_ONCE = 1 << 20
_SPARSE = 4
"""Of so many rows in the row groups that hold them, one is asked for, or fewer."""
_KEPT_BYTES = 64 << 20
"""Row groups kept for the next few rows asked for: decoding one takes as long as scoring
thousands of rows."""


class Codes(NamedTuple):
    """A column as numbers into the list of its values."""

    values: list[str]
    codes: np.ndarray
    """Index of each row's value, int32 ``[rows]``; null is -1."""


class Metadata:
    """Reads metadata of one snapshot; keeps the file's footer."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._codes: dict[str, Codes] = {}
        self._kept: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._lock = Lock()

    @cached_property
    def _file(self) -> pq.ParquetFile:
        return _mapped(self._snapshot.metadata_file())

    @cached_property
    def _own_file(self) -> pq.ParquetFile:
        return _mapped(self._snapshot.own_columns_file())

    def type_of(self, column: str) -> pa.DataType:
        """Return the type of a column ``extra.NAME``.

        Raises:
            NotInStoreError: no row has such a field.
        """
        known = self._snapshot.own_columns
        if column not in known:
            raise NotInStoreError(own_sql.absent(column, known))
        return known[column]

    @cached_property
    def _starts(self) -> np.ndarray:
        footer = self._file.metadata
        counts = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def read(self, rows: np.ndarray, columns: Iterable[str] | None = None) -> pa.Table:
        """Return the metadata of ``rows``, in their order.

        Args:
            rows: int64 row numbers, any order.
            columns: which columns, ``row_id`` and fields of ``extra`` (``extra.NAME``) among
                them if wanted; the schema's and ``row_id`` when missing.

        Raises:
            NotInStoreError: there is no such column.
        """
        import pyarrow as pa

        names = check_columns(columns)
        if not len(rows) or not names:
            fields = [self._field(name) for name in names]
            empty = pa.schema(fields).empty_table()
            # A table without columns would not know its length.
            return empty if not len(rows) else pa.table({ROW_ID: rows}).select(names)
        if names == [ROW_ID]:
            return pa.table([arrow_numbers.array(rows)], pa.schema([self._field(ROW_ID)]))
        groups = np.searchsorted(self._starts, rows, "right") - 1
        own = [name for name in names if name.startswith(own_columns.PREFIX)]
        for name in own:
            self.type_of(name)
        file = self._own_file if own else self._file
        found = self._stored(file, rows, groups, [name for name in names if name != ROW_ID])
        if ROW_ID in names:
            found = found.append_column(self._field(ROW_ID), arrow_numbers.array(rows))
        return found.select(names)

    def _stored(
        self, file: pq.ParquetFile, rows: np.ndarray, groups: np.ndarray, names: list[str]
    ) -> pa.Table:
        """Return columns of the file; ``groups`` are the row groups of the rows."""
        needed = np.unique(groups)
        sizes = np.diff(self._starts)[needed]
        if len(rows) * _SPARSE < sizes.sum():
            return self._scattered(file, rows, groups, names)
        table = file.read_row_groups(needed.tolist(), columns=names)
        table = table.select(names).replace_schema_metadata(None)  # the file's notes
        before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        places = rows - self._starts[groups] + before[np.searchsorted(needed, groups)]
        first, last = int(places[0]), int(places[-1])
        if last - first == len(places) - 1 and bool((np.diff(places) == 1).all()):
            return table.slice(first, len(places))
        return table.take(arrow_numbers.array(places))

    def norms(self, rows: np.ndarray) -> np.ndarray:
        """Return the norms of ``rows`` (int64, any order), float32; kept as row groups are."""
        if not len(rows):
            return np.empty(0, np.float32)
        groups = np.searchsorted(self._starts, (rows.min(), rows.max()), "right") - 1
        first, last = groups.tolist()
        start = int(self._starts[first])
        if int(self._starts[last + 1]) - start > _SPARSE * len(rows):
            return arrow_numbers.values(self.read(rows, ["norm"])["norm"])
        parts = [self._group(self._file, group, ["norm"]) for group in range(first, last + 1)]
        together = np.concatenate([arrow_numbers.values(part["norm"]) for part in parts])
        at = int(rows[0]) - start
        run = rows[-1] - rows[0] == len(rows) - 1 and bool((rows[1:] > rows[:-1]).all())
        chosen: np.ndarray = together[at : at + len(rows)] if run else together[rows - start]
        return chosen

    def _scattered(
        self, file: pq.ParquetFile, rows: np.ndarray, groups: np.ndarray, names: list[str]
    ) -> pa.Table:
        """Return a few of many rows, row group by row group: their texts may be long."""
        import pyarrow as pa

        order = np.argsort(groups, kind="stable")
        bounds = [0, *(np.flatnonzero(np.diff(groups[order])) + 1).tolist(), len(order)]
        parts = []
        for first, last in itertools.pairwise(bounds):
            at = order[first:last]
            group = int(groups[at[0]])
            whole = self._group(file, group, names)
            parts.append(whole.take(arrow_numbers.array(rows[at] - self._starts[group])))
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        table = pa.concat_tables(parts)
        return table if bool((np.diff(order) == 1).all()) else table.take(arrow_numbers.array(back))

    def _group(self, file: pq.ParquetFile, group: int, names: list[str]) -> pa.Table:
        key = group, tuple(names)
        with self._lock:
            found = self._kept.pop(key, None)
            if found is None:
                found = file.read_row_group(group, columns=names).select(names)
                found = found.replace_schema_metadata(None)
            self._kept[key] = found  # the last one is the one asked for last
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return found

    def _field(self, name: str) -> pa.Field:
        import pyarrow as pa

        if name.startswith(own_columns.PREFIX):
            return pa.field(name, self.type_of(name))
        if name == ROW_ID:
            return pa.field(ROW_ID, pa.int64(), nullable=False)
        return schema.metadata_schema().field(name)

    def codes(self, column: str) -> Codes | None:
        """Return a column of few different values in a form that compares fast.

        None for other columns, and for very large stores. Kept once it was read.
        """
        import pyarrow.parquet as pq

        if column not in _CODED or self._snapshot.rows > _CODED_ROWS:
            return None
        found = self._codes.get(column)
        if found is None:
            path = self._snapshot.metadata_file()
            with (
                reading(path, derived=True),
                pq.ParquetFile(path, memory_map=True, read_dictionary=[column]) as file,
            ):
                read = file.read([column])[column]
            array = read.unify_dictionaries().combine_chunks()
            codes = array.indices.fill_null(-1).to_numpy()
            found = self._codes[column] = Codes(array.dictionary.to_pylist(), codes)
        return found

    def distinct(self, rows: np.ndarray, column: str) -> set[str | None]:
        """Return the values that ``rows`` (int64) have in a column of few different values."""
        known = self.codes(column)
        if known is not None:
            counts = np.bincount(known.codes[rows] + 1, minlength=1)
            names = [None, *known.values]
            return {names[at] for at in np.flatnonzero(counts).tolist()}
        found: set[str | None] = set()
        for start in range(0, len(rows), _AT_ONCE):
            part = self.read(rows[start : start + _AT_ONCE], [column])
            found.update(part[column].unique().to_pylist())
        return found

    def close(self) -> None:
        """Close the file if it was opened."""
        self._codes.clear()
        self._kept.clear()
        for name in ("_file", "_own_file"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()


def check_columns(columns: Iterable[str] | None) -> list[str]:
    """Return the asked-for metadata columns, or the schema's and ``row_id``.

    A field of ``extra`` (``extra.NAME``) is looked up when it is read.

    Raises:
        NotInStoreError: one is no metadata column.
    """
    known = [*schema.metadata_names(), ROW_ID]
    if columns is None:
        return known
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in known and not name.startswith(own_columns.PREFIX):
            raise NotInStoreError(missing_column(name, known))
    return names


def missing_column(name: str, known: Sequence[str]) -> str:
    """Return the message for a column that does not exist."""
    if name == schema.VECTOR:
        return f"{name} is the vector itself, not metadata: use .numpy() or .tensor()"
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}? The" if close else "the"
    return f"there is no column {name!r}: {hint} columns are {', '.join(known)}"


def _mapped(path: Path) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    with reading(path, derived=True):
        return pq.ParquetFile(path, memory_map=True)
