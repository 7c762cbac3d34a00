"""All rows' metadata with their labels, as one Parquet file that keeps what an older one has."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage import derived, shard_columns
from actstore.storage.files import StoreFiles
from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry
from actstore.storage.row_groups import Encoded, RowGroup, RowGroups, RowGroupWriter
from actstore.storage.threads import Task, give_up, pool, submit, workers

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 8_192
"""Rows per row group, DuckDB's unit of parallel work: small, since each row may bring a vector."""
_ORIGIN = b"actstore:metadata"
_AHEAD = 32
_TOGETHER = 1_024
_SMALL_ROWS = 1_024
"""Rows of shards that are read together; larger ones are read side by side."""
_PIECES = 128
"""Tables that are joined before more of them wait."""


def identity(entry: ShardEntry | LabelEntry) -> str:
    """Return what tells a file from every other, of the same path in another repository too."""
    return f"{entry.sha256} {entry.path}"


class Older:
    """A metadata file of another commit.

    Raises:
        OSError, ArrowException, KeyError, TypeError, ValueError: it is none, or none of ours.
    """

    def __init__(self, path: Path) -> None:
        self.groups = RowGroups(path)
        try:
            origin = json.loads(self.groups.notes[_ORIGIN])
            self.labels: list[str] = origin["labels"]
            """The label overlays that are applied in it."""
            rows = np.array([rows for _, rows in origin["shards"]], np.int64)
            ends = np.cumsum(rows)
            firsts = (ends - rows).tolist()
            names = [name for name, _ in origin["shards"]]
            self.places: dict[str, int] = dict(zip(names, firsts, strict=True))
            """Where each shard's rows begin."""
        except BaseException:
            self.close()
            raise
        self.starts = np.concatenate([[0], np.cumsum(self.groups.rows, dtype=np.int64)])
        """Where each row group begins, and the last one ends."""
        self._held: tuple[int, pa.Table] | None = None

    def close(self) -> None:
        """Close it."""
        self.groups.close()

    def serves(self, manifest: Manifest) -> bool:
        """Say whether a commit's metadata can be made from it.

        Its label overlays must be the first of the commit's, since labels once applied cannot be
        taken back, and it must share shards with the commit.
        """
        labels = [identity(entry) for entry in manifest.labels]
        shared = any(identity(entry) in self.places for entry in manifest.shards)
        return shared and labels[: len(self.labels)] == self.labels

    def rows_of(self, number: int) -> _Old:
        """Return the rows of a row group."""
        return _Old(int(self.starts[number]), int(self.starts[number + 1]))

    def read(self, start: int, stop: int) -> pa.Table:
        """Return the metadata of its rows from ``start`` on, before ``stop``."""
        import pyarrow as pa

        first = int(np.searchsorted(self.starts, start, "right")) - 1
        last = int(np.searchsorted(self.starts, stop, "left"))
        parts = []
        for number in range(first, last):
            begin, end = self.rows_of(number)
            part = self._group(number).slice(max(0, start - begin))
            parts.append(part.slice(0, min(stop, end) - max(start, begin)))
        return pa.concat_tables(parts)

    def _group(self, number: int) -> pa.Table:
        # What was put between two rows of a group asks for it twice.
        if self._held is None or self._held[0] != number:
            names = list(schema.metadata_names())
            read = self.groups.read(number, names).select(names).cast(schema.metadata_schema())
            self._held = number, read
        return self._held[1]


class _Old(NamedTuple):
    """Rows of the older file that are read and written again."""

    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


class _Kept(NamedTuple):
    """A row group of the older file that stays as it is, but for labels."""

    number: int
    rows: int


class _New(NamedTuple):
    """Consecutive shards that the older file does not have, read together."""

    shards: list[ShardEntry]

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.shards)


_Piece = _Old | _Kept | _New


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
    plan = _plan(manifest.shards, older, files.portion is None)
    labels = _Labels(files, manifest, older)
    keeps = any(isinstance(piece, _Kept) for piece in plan)
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
            for piece, table in _with_tables(plan, files, older, labels):
                if isinstance(piece, _Kept):
                    assert older is not None
                    changes = labels.fresh_within(*older.rows_of(piece.number))
                    groups.keep(older.groups[piece.number], table, changes)
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
        writer.finish(done, {_ORIGIN: json.dumps(origin).encode()})


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
        while self._rows >= 2 * GROUP_ROWS:
            self._write(GROUP_ROWS)

    def keep(self, group: RowGroup, labels: pa.Table | None, changes: Mapping[int, Any]) -> None:
        """Let a row group of the older file be the next; ``labels``, with changes, are new."""
        self._flush()
        if labels is not None:
            group = self._writer.with_column(group, shard_columns.with_labels(labels, changes))
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
        if 2 * self._rows > 3 * GROUP_ROWS:
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


def _plan(shards: Sequence[ShardEntry], older: Older | None, near: bool) -> list[_Piece]:
    """Say where the metadata of all shards come from, in row order."""
    if older is None:
        return [*_stretches(shards, {}, near)]
    pieces: list[_Piece] = []
    for stretch in _stretches(shards, older.places, near):
        pieces += _cut(stretch, older) if isinstance(stretch, _Old) else [stretch]
    pieces = list(_joined(pieces, older))
    live = sum(older.groups[each.number].size for each in pieces if isinstance(each, _Kept))
    if 2 * live < older.groups.end:  # else what is dead would pile up
        return [older.rows_of(p.number) if isinstance(p, _Kept) else p for p in pieces]
    return pieces


def _stretches(
    shards: Iterable[ShardEntry], places: Mapping[str, int], near: bool
) -> Iterator[_Old | _New]:
    """Cut shards, in row order, into what an older file has in one piece, or not at all."""
    old: _Old | None = None
    new: list[ShardEntry] = []
    rows = 0
    for entry in shards:
        first = places.get(identity(entry))
        # Large ones, and those from afar, are read side by side.
        together = near and entry.rows <= _SMALL_ROWS
        full = len(new) == _TOGETHER or rows > _SMALL_ROWS
        if new and (first is not None or full or not together):
            yield _New(new)
            new, rows = [], 0
        if first is None:
            if old is not None:
                yield old
                old = None
            new.append(entry)
            rows += entry.rows
        elif old is not None and old.stop == first:
            old = _Old(old.start, first + entry.rows)
        else:
            if old is not None:
                yield old
            old = _Old(first, first + entry.rows)
    if old is not None:
        yield old
    if new:
        yield _New(new)


def _cut(rows: _Old, older: Older) -> Iterator[_Piece]:
    """Cut rows of the older file into whole row groups and what there is before and behind."""
    first = int(np.searchsorted(older.starts, rows.start, "left"))
    last = int(np.searchsorted(older.starts, rows.stop, "right")) - 1
    if first >= last:
        yield rows
        return
    if rows.start < older.starts[first]:
        yield _Old(rows.start, int(older.starts[first]))
    for number in range(first, last):
        yield _Kept(number, older.groups.rows[number])
    if rows.stop > older.starts[last]:
        yield _Old(int(older.starts[last]), rows.stop)


def _joined(pieces: Iterable[_Piece], older: Older) -> Iterator[_Piece]:
    """Let row groups be written again where they, or the new rows beside them, are few."""
    few = GROUP_ROWS // 2
    before: _Kept | None = None  # that may yet be written again
    waiting = 0  # rows that will be in a new row group
    for piece in pieces:
        if isinstance(piece, _Kept):
            if before is not None:
                yield before
            before = None
            if waiting and (waiting < few or piece.rows < few):
                waiting += piece.rows
                yield older.rows_of(piece.number)
            else:
                waiting = 0
                before = piece
            continue
        if before is not None:
            if before.rows < few:
                waiting += before.rows
                yield older.rows_of(before.number)
            else:
                yield before
            before = None
        waiting += piece.rows
        yield piece
    if before is not None:
        yield before


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
    plan: Sequence[_Piece], files: StoreFiles, older: Older | None, labels: _Labels
) -> Iterator[tuple[_Piece, pa.Table | None]]:
    """Yield each piece with its metadata; one that is kept with its labels, if they change."""
    names = list(schema.metadata_names())
    unread = iter([piece for piece in plan if isinstance(piece, _New)])
    pending = [files.submit(files.table, piece.shards, names) for piece in islice(unread, _AHEAD)]
    try:
        for piece in plan:
            if isinstance(piece, _New):
                table = pending.pop(0).result()
                pending += [
                    files.submit(files.table, following.shards, names)
                    for following in islice(unread, 1)
                ]
                yield piece, labels.of_new(piece.shards, table)
                continue
            assert older is not None
            if isinstance(piece, _Kept):
                changed = labels.fresh_within(*older.rows_of(piece.number))
                yield piece, older.groups.read(piece.number, ["label"]) if changed else None
                continue
            table = older.read(*piece)
            changes = labels.fresh_within(*piece)
            yield piece, shard_columns.with_labels(table, changes) if changes else table
    finally:
        give_up(pending)
