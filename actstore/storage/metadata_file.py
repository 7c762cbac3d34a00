"""All rows' metadata with their labels, as one Parquet file that keeps what an older one has."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema
from actstore.storage import derived, older_metadata, shard_columns
from actstore.storage.files import StoreFiles
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.older_metadata import ORIGIN, Kept, New, Old, Older, Piece, identity
from actstore.storage.row_groups import Encoded, RowGroup, RowGroupWriter
from actstore.storage.threads import Task, give_up, pool, submit, workers

if TYPE_CHECKING:
    import pyarrow as pa

_AHEAD = 32
_AHEAD_ROWS = 1 << 20
"""Rows of shards that are read ahead, unless threads would have nothing to do."""
_PIECES = 128
"""Tables that are joined before more of them wait."""


def write(draft: Path, files: StoreFiles, manifest: Manifest, older: Older | None) -> None:
    """Write the metadata file of a commit.

    Args:
        draft: where, an empty file.
        files: of the commit.
        manifest: the commit.
        older: what serves it.

    Raises:
        OSError, ArrowException, EOFError: the older file is damaged, or the new one has no room.
        CorruptStoreError: a shard or label file is missing or damaged.
    """
    columns = schema.metadata_schema()
    pieces = older_metadata.plan(manifest.shards, older, files.portion is None)
    labels = _Labels(files, manifest, older)
    keeps = any(isinstance(piece, Kept) for piece in pieces)
    with RowGroupWriter(
        draft,
        columns,
        older.groups if older is not None and keeps else None,
        compression="snappy",
        write_statistics=derived.with_statistics(columns),
        use_dictionary=[name for name in columns.names if name != "norm"],
    ) as writer:
        groups = _Groups(writer)
        try:
            for piece, table in _with_tables(pieces, files, older, labels):
                if isinstance(piece, Kept):
                    assert older is not None
                    groups.keep(older.groups[piece.number], table)
                else:
                    assert table is not None
                    groups.take(table)
            done = groups.all()
        finally:
            groups.give_up()
        origin = {
            "shards": [(identity(entry), entry.rows) for entry in manifest.shards],
            "labels": [identity(entry) for entry in manifest.labels],
        }
        writer.finish(done, {ORIGIN: json.dumps(origin).encode()})


class _Groups:
    """Row groups in the making."""

    def __init__(self, writer: RowGroupWriter) -> None:
        self._done: list[RowGroup] = []
        self._writer = writer
        self._coming: deque[Task[Encoded]] = deque()
        """Row groups that threads encode, which come behind those that are done."""
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def take(self, table: pa.Table) -> None:
        """Take in the next rows."""
        import pyarrow as pa

        self._waiting.append(table)
        self._rows += table.num_rows
        if len(self._waiting) == _PIECES:  # a table of few rows takes far more room than they
            self._waiting = [pa.concat_tables(self._waiting).combine_chunks()]
        while self._rows >= 2 * older_metadata.GROUP_ROWS:
            self._write(older_metadata.GROUP_ROWS)

    def keep(self, group: RowGroup, labels: pa.Table | None) -> None:
        """Let a row group of the older file be the next, with other labels if there are any."""
        self._flush()
        if labels is not None:
            group = self._writer.with_column(group, labels)
        self._done.append(group)

    def all(self) -> list[RowGroup]:
        """Return the row groups of all rows, in order."""
        self._flush()
        return self._done

    def give_up(self) -> None:
        """Leave no thread at work."""
        give_up(self._coming)

    def _flush(self) -> None:
        """Write what waits, as one row group or as two halves."""
        if 2 * self._rows > 3 * older_metadata.GROUP_ROWS:
            self._write((self._rows + 1) // 2)
        if self._rows:
            self._write(self._rows)
        self._take_in(0)

    def _take_in(self, most: int) -> None:
        while len(self._coming) > most:
            self._done.append(self._writer.add(self._coming[0].result()))
            self._coming.popleft()

    def _write(self, rows: int) -> None:
        import pyarrow as pa

        joined = pa.concat_tables(self._waiting)
        self._coming.append(submit(pool, self._writer.encoded, joined.slice(0, rows)))
        self._take_in(2 * workers())
        self._rows -= rows
        self._waiting = [joined.slice(rows)] if self._rows else []


class _Labels:
    """What label overlays say of a commit's rows, and what the older file does not know of it."""

    def __init__(self, files: StoreFiles, manifest: Manifest, older: Older | None) -> None:
        self._files = files
        self._manifest = manifest
        applied = 0 if older is None else len(older.labels)
        self._all_fresh = not applied
        self._fresh = shard_columns.merged(map(files.labels, manifest.labels[applied:]))
        rows: list[np.ndarray] = []
        self._texts: list[Any] = []
        if older is not None and self._fresh:
            for entry in manifest.shards:
                own = self._fresh.get(entry.path)
                first = older.places.get(identity(entry))
                if own and first is not None:
                    shard_columns.check_labelled(own, entry.rows)
                    rows.append(first + np.fromiter(own, np.int64, len(own)))
                    self._texts += own.values()
        joined = np.concatenate(rows) if rows else np.empty(0, np.int64)
        self._order = np.argsort(joined, kind="stable")
        self._rows = joined[self._order]

    @cached_property
    def all(self) -> Mapping[str, dict[int, Any]]:
        """Per shard path, the label of each relabelled row."""
        if self._all_fresh:
            return self._fresh
        return shard_columns.merged(map(self._files.labels, self._manifest.labels))

    def fresh_within(self, start: int, stop: int) -> dict[int, Any]:
        """Return the new labels of rows of the older file, by number from ``start`` on."""
        first, last = np.searchsorted(self._rows, [start, stop]).tolist()
        rows = (self._rows[first:last] - start).tolist()
        return dict(zip(rows, (self._texts[at] for at in self._order[first:last]), strict=True))

    def of_new(self, shards: Sequence[ShardEntry], table: pa.Table) -> pa.Table:
        """Return the metadata of shards with the labels that overlays give their rows."""
        import pyarrow as pa

        if not self._manifest.labels or not any(entry.path in self.all for entry in shards):
            return table
        bounds = np.cumsum([0, *(entry.rows for entry in shards)]).tolist()
        parts = []
        for entry, (start, stop) in zip(shards, pairwise(bounds), strict=True):
            part = table.slice(start, stop - start)
            own = self.all.get(entry.path)
            parts.append(shard_columns.with_labels(part, own) if own else part)
        return pa.concat_tables(parts)


def _with_tables(
    pieces: Sequence[Piece], files: StoreFiles, older: Older | None, labels: _Labels
) -> Iterator[tuple[Piece, pa.Table | None]]:
    """Yield each piece with its metadata; one that is kept with its labels alone, if others."""
    coming = _Coming(files, [piece for piece in pieces if isinstance(piece, New)])
    try:
        for piece in pieces:
            if isinstance(piece, New):
                yield piece, labels.of_new(piece.shards, coming.next())
                continue
            assert older is not None
            rows = older.rows_of(piece.number) if isinstance(piece, Kept) else piece
            changes = labels.fresh_within(*rows)
            table = None
            if isinstance(piece, Old):
                table = older.read(*piece)
            elif changes:
                table = older.groups.read(piece.number, ["label"])
            if table is not None and changes:
                table = shard_columns.with_labels(table, changes)
            yield piece, table
    finally:
        coming.give_up()


class _Coming:
    """Metadata of shards in order, which threads read ahead."""

    def __init__(self, files: StoreFiles, pieces: Iterable[New]) -> None:
        self._files = files
        self._unread = deque(pieces)
        self._pending: deque[tuple[int, Task[pa.Table]]] = deque()
        self._rows = 0

    def next(self) -> pa.Table:
        """Return that of the next piece."""
        names = list(schema.metadata_names())
        while self._unread and (
            len(self._pending) < workers()
            or (len(self._pending) < _AHEAD and self._rows < _AHEAD_ROWS)
        ):
            piece = self._unread.popleft()
            task = self._files.submit(self._files.table, piece.shards, names)
            self._pending.append((piece.rows, task))
            self._rows += piece.rows
        rows, task = self._pending[0]
        table = task.result()
        self._pending.popleft()
        self._rows -= rows
        return table

    def give_up(self) -> None:
        """Leave no thread at work."""
        give_up([task for _, task in self._pending])
