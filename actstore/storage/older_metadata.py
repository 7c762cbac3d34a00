"""What of a commit's metadata an older metadata file has, and what must be read of shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage.manifest import LabelEntry, Manifest, ShardEntry
from actstore.storage.row_groups import RowGroups

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 8_192
"""Rows per row group, DuckDB's unit of parallel work: small, since each row may bring a vector."""
_TOGETHER = 1_024
_SMALL_ROWS = 1_024
"""Rows of shards that are read together; larger ones are read side by side."""
ORIGIN = b"actstore:metadata"
"""The note of which shards and labels a file was made of."""


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
            origin = json.loads(self.groups.notes[ORIGIN])
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

    def rows_of(self, number: int) -> Old:
        """Return the rows of a row group."""
        return Old(int(self.starts[number]), int(self.starts[number + 1]))

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


class Old(NamedTuple):
    """Rows of the older file that are read and written again."""

    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


class Kept(NamedTuple):
    """A row group of the older file that stays as it is, but for labels."""

    number: int
    rows: int


class New(NamedTuple):
    """Consecutive shards that the older file does not have, read together."""

    shards: list[ShardEntry]

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.shards)


Piece = Old | Kept | New


def plan(shards: Sequence[ShardEntry], older: Older | None, near: bool) -> list[Piece]:
    """Say where the metadata of all shards come from, in row order."""
    if older is None:
        return [*_stretches(shards, {}, near)]
    pieces: list[Piece] = []
    for stretch in _stretches(shards, older.places, near):
        pieces += _cut(stretch, older) if isinstance(stretch, Old) else [stretch]
    pieces = list(_joined(pieces, older))
    live = sum(older.groups[each.number].size for each in pieces if isinstance(each, Kept))
    if 2 * live < older.groups.end:  # else what is dead would pile up
        return [older.rows_of(p.number) if isinstance(p, Kept) else p for p in pieces]
    return pieces


def _stretches(
    shards: Iterable[ShardEntry], places: Mapping[str, int], near: bool
) -> Iterator[Old | New]:
    """Cut shards, in row order, into what an older file has in one piece, or not at all."""
    old: Old | None = None
    new: list[ShardEntry] = []
    rows = 0
    for entry in shards:
        first = places.get(identity(entry))
        # Large ones, and those from afar, are read side by side.
        together = near and entry.rows <= _SMALL_ROWS
        full = len(new) == _TOGETHER or rows > _SMALL_ROWS
        if new and (first is not None or full or not together):
            yield New(new)
            new, rows = [], 0
        if first is None:
            if old is not None:
                yield old
                old = None
            new.append(entry)
            rows += entry.rows
        elif old is not None and old.stop == first:
            old = Old(old.start, first + entry.rows)
        else:
            if old is not None:
                yield old
            old = Old(first, first + entry.rows)
    if old is not None:
        yield old
    if new:
        yield New(new)


def _cut(rows: Old, older: Older) -> Iterator[Piece]:
    """Cut rows of the older file into whole row groups and what there is before and behind."""
    first = int(np.searchsorted(older.starts, rows.start, "left"))
    last = int(np.searchsorted(older.starts, rows.stop, "right")) - 1
    if first >= last:
        yield rows
        return
    if rows.start < older.starts[first]:
        yield Old(rows.start, int(older.starts[first]))
    for number in range(first, last):
        yield Kept(number, older.groups.rows[number])
    if rows.stop > older.starts[last]:
        yield Old(int(older.starts[last]), rows.stop)


def _joined(pieces: Iterable[Piece], older: Older) -> Iterator[Piece]:
    """Let row groups be written again where they, or the new rows beside them, are few."""
    few = GROUP_ROWS // 2
    before: Kept | None = None  # that may yet be written again
    waiting = 0  # rows that will be in a new row group
    for piece in pieces:
        if isinstance(piece, Kept):
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
