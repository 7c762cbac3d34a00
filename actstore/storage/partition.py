"""What a store already holds of one model, site and layer: key hashes and where the rows are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from actstore import schema
from actstore.storage import comparing, key_hashes, quantised, shard_columns, small_shards
from actstore.storage.manifest import ShardEntry
from actstore.storage.mapping import ShardReader, open_shard
from actstore.storage.pending_rows import PendingRows
from actstore.storage.remembered import Remembered
from actstore.storage.shard import ShardWriter

_ROWS_AT_ONCE = 100_000
"""Rows whose keys are hashed in one go: many small shards take as long as one, else."""
_KNOWN_BYTES = 32 << 20
"""Keys of so many bytes are kept for the next writer of this process."""
_ROW_BYTES = 24
_SHARD_BYTES = 600
"""What Python needs for the keys of a shard beside those of each row."""


class RowAddress(NamedTuple):
    """Where a row is: in a committed shard, or in one that is being written."""

    shard: int | ShardWriter
    row: int


class StoredRows(NamedTuple):
    """Rows of one committed shard."""

    entry: ShardEntry
    rows: np.ndarray
    """Their numbers within it: int64, ascending."""


class _Keys(NamedTuple):
    """What is known of the keys of a shard."""

    hashes: np.ndarray
    """Ascending."""
    order: np.ndarray
    """The row that has each of them."""
    labels: np.ndarray
    """Hash of each row's label."""


def _weight(keys: _Keys) -> int:
    return len(keys.hashes) * _ROW_BYTES + _SHARD_BYTES


_known: Remembered[str, _Keys] = Remembered(_KNOWN_BYTES, _weight)
"""Keys of shards that this process has read, by their SHA-256: many small writes ask for them
again and again."""


def _keys_of(root: Path, entries: list[ShardEntry]) -> list[_Keys]:
    """Read the keys of committed shards."""
    table = small_shards.read_columns(root, entries, [*schema.key_names(), "label"])
    ends = np.cumsum([entry.rows for entry in entries])[:-1]
    labels = np.split(key_hashes.hash_column(table["label"]), ends)
    found = []
    for hashes, each in zip(np.split(key_hashes.hash_table(table), ends), labels, strict=True):
        order = np.argsort(hashes, kind="stable")
        found.append(_Keys(hashes[order], order, each.copy()))
    return found


class Partition:
    """Rows of one (model, site, layer), committed and pending."""

    def __init__(self, root: Path, entries: list[ShardEntry]) -> None:
        self._root = root
        self._entries: list[ShardEntry | ShardWriter] = []
        self._hashes: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._order: list[np.ndarray] = []
        self._readers: dict[str, ShardReader] = {}
        self._pending: dict[ShardWriter, PendingRows] = {}
        """The rows of each shard that is being written; a hash is in one of them."""
        self._twins: dict[int, list[RowAddress]] = {}
        """Pending rows of other keys and the same hash."""
        self.width: int | None = None
        """Width of the stored vectors; None when nothing is stored yet."""
        self._learn_all(entries)

    def _learn_all(self, entries: list[ShardEntry]) -> None:
        """Take note of the keys of committed shards."""
        if not entries:
            return
        found = {entry.sha256: _known.get(entry.sha256) for entry in entries}
        waiting: list[ShardEntry] = []
        rows = 0
        unknown = [entry for entry in entries if found[entry.sha256] is None]
        for entry in unknown:
            waiting.append(entry)
            rows += entry.rows
            if rows >= _ROWS_AT_ONCE or entry is unknown[-1]:
                for each, keys in zip(waiting, _keys_of(self._root, waiting), strict=True):
                    found[each.sha256] = keys
                    if _weight(keys) <= _KNOWN_BYTES:  # it would push out all others for nothing
                        _known.put(each.sha256, keys)
                waiting, rows = [], 0
        self.width = entries[-1].width
        for entry in entries:
            known = found[entry.sha256]
            assert known is not None
            self._entries.append(entry)
            self._hashes.append(known.hashes)
            self._order.append(known.order)
            self._labels.append(known.labels)

    def catch_up(self, entries: list[ShardEntry]) -> bool:
        """Learn the shards that others have committed; False where known ones are gone.

        Args:
            entries: all committed shards of this model, site and layer.
        """
        known = {each.path for each in self._entries if isinstance(each, ShardEntry)}
        if not known <= {entry.path for entry in entries}:
            return False
        self._learn_all([entry for entry in entries if entry.path not in known])
        return True

    def meets(self, writer: ShardWriter, paths: Collection[str]) -> bool:
        """Say whether rows that are being written share a hash with rows of committed shards."""
        twins = [
            value for value, found in self._twins.items() for twin in found if twin.shard is writer
        ]
        pending, _ = self._pending.get(writer, PendingRows()).arrays()
        values = np.concatenate([pending, np.array(twins, np.uint64)])
        for entry, known in zip(self._entries, self._hashes, strict=True):
            if isinstance(entry, ShardEntry) and entry.path in paths and len(known):
                at = np.minimum(np.searchsorted(known, values), len(known) - 1)
                if bool((known[at] == values).any()):
                    return True
        return False

    def expect(self, writer: ShardWriter, values: Sequence[int]) -> None:
        """Take note of the hashes of rows that are about to be appended to ``writer``."""
        self.width = writer.width
        hashes = np.array(values, np.uint64)
        for other, rows in self._pending.items():
            found = rows.find(hashes, values)  # they were found to be of other keys
            for position, row in found.items():
                self._twins.setdefault(values[position], []).append(RowAddress(other, row))
            if found:
                rows.discard([values[position] for position in found])
        self._pending.setdefault(writer, PendingRows()).put(values, writer.rows)

    def _pending_place(self, value: int) -> RowAddress | None:
        for writer, rows in self._pending.items():
            row = rows.get(value)
            if row is not None:
                return RowAddress(writer, row)
        return None

    def forget(self, values: Sequence[int]) -> None:
        """Take back what :meth:`expect` noted."""
        for rows in self._pending.values():
            rows.discard(values)
        # The latest row of a hash is pending, those before it are twins.
        shared = Counter(value for value in values if value in self._twins)
        for value, times in shared.items():
            twins = self._twins.pop(value)
            left = twins[: max(0, len(twins) + 1 - times)]
            if left:
                latest = left.pop()
                self._pending[self._writer(latest)].put([value], latest.row)
            if left:
                self._twins[value] = left
        if not any(self._pending.values()) and not self._entries:
            self.width = None

    def commit(self, writer: ShardWriter, entry: ShardEntry | ShardWriter) -> None:
        """Turn the pending rows of ``writer`` into rows of the committed ``entry``.

        Where nothing is committed, the writer itself holds on to what tells its rows' vectors.
        """
        pending = self._pending.pop(writer, PendingRows())
        twins = [
            (value, twin.row)
            for value, found in self._twins.items()
            for twin in found
            if twin.shard is writer
        ]
        for found in self._twins.values():
            found[:] = [twin for twin in found if twin.shard is not writer]
        self._twins = {value: found for value, found in self._twins.items() if found}
        hashes, rows = pending.arrays()
        hashes = np.append(hashes, np.array([value for value, _ in twins], np.uint64))
        rows = np.append(rows, np.array([row for _, row in twins], np.int64))
        order = np.argsort(hashes, kind="stable")
        self._entries.append(entry)
        self._hashes.append(hashes[order])
        self._order.append(rows[order])
        self._labels.append(np.zeros(0, np.uint64))  # this session's own rows: nothing to compare

    def find(
        self, hashes: np.ndarray, rows: Sequence[int], values: Sequence[int]
    ) -> dict[int, RowAddress]:
        """Return, by position in ``rows``, those that are already there.

        Args:
            hashes: of all rows of a batch.
            rows: the rows in question.
            values: their hashes, as Python numbers.
        """
        found: dict[int, RowAddress] = {}
        wanted = hashes if len(rows) == len(hashes) else hashes[rows]
        if self._entries:
            for number, (known, order) in enumerate(zip(self._hashes, self._order, strict=True)):
                at = np.searchsorted(known, wanted)
                inside = np.flatnonzero(at < len(known))
                for position in inside[known[at[inside]] == wanted[inside]].tolist():
                    found[position] = RowAddress(number, int(order[at[position]]))
        for writer, pending in self._pending.items():
            for position, row in pending.find(wanted, values).items():
                found[position] = RowAddress(writer, row)
        return found

    def others(self, value: int, place: RowAddress) -> list[RowAddress]:
        """Return all other rows of that hash; there are some where keys' hashes collide."""
        found = [*self._twins.get(value, ())]
        pending = self._pending_place(value)
        if pending is not None:
            found.append(pending)
        for number, (known, order) in enumerate(zip(self._hashes, self._order, strict=True)):
            low, high = (int(np.searchsorted(known, value, side)) for side in ("left", "right"))
            found += [RowAddress(number, int(row)) for row in order[low:high]]
        return [other for other in found if other != place]

    def same(
        self, vectors: np.ndarray, places: list[RowAddress], *, coarse: bool = False
    ) -> np.ndarray:
        """Compare each vector with the stored one, bit for bit: bool ``[len(places)]``.

        Where one of two is of int8 (``coarse`` says that ``vectors`` were), the other is
        compared as it would be if it were too.
        """
        equal = np.zeros(len(places), bool)
        by_shard: dict[int | ShardWriter, list[int]] = {}
        for slot, place in enumerate(places):
            by_shard.setdefault(place.shard, []).append(slot)
        for shard, slots in by_shard.items():
            rows = [places[slot].row for slot in slots]
            source = shard if isinstance(shard, ShardWriter) else self._entries[shard]
            if isinstance(source, ShardWriter):
                equal[slots] = source.same(rows, vectors[slots])
                if source.dtype == "int8" and not coarse:
                    equal[slots] |= source.same(rows, quantised.rounded(vectors[slots]))
            else:
                stored = self._reader(source).take(np.array(rows, np.int64))
                equal[slots] = comparing.same(
                    stored, vectors[slots], source.dtype == "int8", coarse
                )
        return equal

    def label_differs(self, place: RowAddress, label: Any) -> bool:
        """Say whether a committed row was stored with another label than ``label``."""
        if label is None or isinstance(place.shard, ShardWriter):
            return False
        labels = self._labels[place.shard]
        return bool(len(labels)) and int(labels[place.row]) != key_hashes.hash_value(label)

    def cells(self, place: RowAddress, names: Sequence[str]) -> tuple[Any, ...] | None:
        """Return a row's values of some columns; None where they have left memory unread."""
        entry = self.entry(place)
        if entry is not None:
            table = shard_columns.read_columns(self._root, entry, list(names))
            return tuple(table[name][place.row].as_py() for name in names)
        found = self._writer(place).fragment(place.row)
        if found is None:
            return None
        fragment, row = found
        return tuple(
            fragment.columns[name][row]
            if name in fragment.columns
            else fragment.constants.get(name)
            for name in names
        )

    def key(self, place: RowAddress) -> tuple[Any, ...] | None:
        """Return a row's key as values; None where it has left memory unread."""
        return self.cells(place, schema.key_names())

    def entry(self, place: RowAddress) -> ShardEntry | None:
        """Return the committed shard that a row is in; None where it is not committed yet."""
        found = place.shard if isinstance(place.shard, ShardWriter) else self._entries[place.shard]
        return None if isinstance(found, ShardWriter) else found

    def _writer(self, place: RowAddress) -> ShardWriter:
        found = place.shard if isinstance(place.shard, ShardWriter) else self._entries[place.shard]
        assert isinstance(found, ShardWriter)
        return found

    def close(self) -> None:
        """Give all files back."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _reader(self, entry: ShardEntry) -> ShardReader:
        if entry.path not in self._readers:
            self.close()  # one open file per partition is enough
            self._readers[entry.path] = open_shard(self._root, entry)
        return self._readers[entry.path]
