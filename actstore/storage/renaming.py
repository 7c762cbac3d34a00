"""Other metadata for stored rows, keys among them: one commit, no vector computed or changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from actstore import schema
from actstore.errors import ConflictError, UsageError
from actstore.storage import key_hashes, rewriting, shard_columns, soundness
from actstore.storage.dropping import rows_by_shard
from actstore.storage.manifest import Manifest, ShardEntry
from actstore.storage.rewriting import Destination, Key, Wanted
from actstore.storage.rows import check
from actstore.storage.snapshot import Snapshot
from actstore.storage.staging import prepare
from actstore.storage.transaction import Transaction

if TYPE_CHECKING:
    import pyarrow as pa

COMPUTED = {
    schema.VECTOR: "it is the vector itself",
    "norm": "it follows from the vector",
    "run_id": "it says which run made the row",
    "label": "labels change with `actstore label`, which rewrites nothing",
}
"""Columns that cannot be set, and why."""
_PARTITION = ("model", "site", "layer")
_REQUIRED = ("example_id", "model", "site", "pooling")
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NewValues:
    """Rows that get other metadata."""

    rows: np.ndarray
    """int64 row numbers, ascending, each once."""
    columns: Mapping[str, Sequence[Any]]
    """By column, the new value of each row."""


class Renaming:
    """A change of metadata, checked and ready to be made.

    Args:
        snapshot: the commit that the row numbers are of.
        values: the rows and their new values.

    Raises:
        UsageError: a column cannot be set, or a value does not fit the schema.
        ConflictError: rows would share a key afterwards, or vectors of two widths a place.
    """

    def __init__(self, snapshot: Snapshot, values: NewValues) -> None:
        for name in values.columns:
            check_column(name)
        self._snapshot = snapshot
        self._values = values
        self._changes: dict[str, _Changed] = {}
        first = 0
        for entry, rows in rows_by_shard(snapshot, values.rows):
            cells = {
                name: column[first : first + len(rows)] for name, column in values.columns.items()
            }
            self._changes[entry.path] = _Changed(entry, rows, cells)
            first += len(rows)
        self.touched = [changed.entry for changed in self._changes.values()]
        """The shards that are written anew."""
        self._places: dict[str, list[Destination]] = {}
        self._hashes: dict[Key, np.ndarray] = {}
        self._widths: dict[Key, int] = {}
        """Of the vectors that rows bring to each model, site and layer."""
        self._check()

    def _check(self) -> None:
        """Refuse values that do not fit, and rows that would get one key."""
        root = self._snapshot.root
        names = list(dict.fromkeys([*schema.key_names(), *_REQUIRED]))
        tables: dict[str, pa.Table] = {}
        targets: set[Key] = set()
        for path, changed in self._changes.items():
            table = shard_columns.read_columns(root, changed.entry, names)
            required = table.select(_REQUIRED).take(changed.rows).to_pydict()
            check(np.zeros((len(changed.rows), 1), np.float32), {}, {**required, **changed.cells})
            table = changed.applied(table)
            self._places[path] = _destinations(table)
            targets |= {place.partition for place in _destinations(table.take(changed.rows))}
            tables[path] = table.select(list(schema.key_names()))
        for entry in self._snapshot.shards:
            if entry.path not in tables and entry.partition in targets:
                tables[entry.path] = shard_columns.read_columns(
                    root, entry, list(schema.key_names())
                )
        self._check_widths(tables, targets)
        _check_keys(list(tables.values()))
        for path, changed in self._changes.items():
            hashes = key_hashes.hash_table(tables[path])
            for place in self._places[path]:
                rows = place.rows[np.isin(place.rows, changed.rows)]
                known = self._hashes.get(place.partition, np.empty(0, np.uint64))
                self._hashes[place.partition] = np.concatenate([known, hashes[rows]])
                self._widths[place.partition] = changed.entry.width

    def _check_widths(self, paths: Mapping[str, Any], targets: set[Key]) -> None:
        widths: dict[Key, dict[int, str]] = {}
        for entry in self._snapshot.shards:
            if entry.path in paths:
                own = [entry.partition]
                if entry.path in self._places:
                    own = [place.partition for place in self._places[entry.path]]
                for partition in own:
                    widths.setdefault(partition, {})[entry.width] = entry.path
        for partition in sorted(targets & widths.keys(), key=str):
            if len(widths[partition]) > 1:
                raise ConflictError(
                    f"{key_hashes.describe_partition(partition)} would hold vectors of widths "
                    f"{', '.join(map(str, sorted(widths[partition])))}; nothing changed"
                )

    def commit(
        self, message: str, *, progress: Callable[[int], None] | None = None
    ) -> Manifest | None:
        """Make the change.

        Args:
            message: what the log says.
            progress: called with the vector bytes written so far.

        Returns:
            The commit; None when there is no row to change.

        Raises:
            DamageError: a file is not what the manifest says; nothing changed.
            ConflictError: another writer has brought a row of the same key meanwhile, or vectors
                of another width.
            CommitError: another writer changed the same shards meanwhile, or the disk failed.
        """
        if not self._changes:
            prepare(self._snapshot.root)  # an earlier try may have been killed after its commit
            return None
        base, root = self._snapshot.manifest, self._snapshot.root
        soundness.check(root, [*self.touched, *base.labels], fetching=True)
        overlays = shard_columns.overlays(root, base.labels)

        def wanted() -> Iterator[Wanted]:
            for path, changed in self._changes.items():
                entry = changed.entry
                table = rewriting.with_labels(root, entry, overlays.get(path))
                yield Wanted(entry, changed.applied(table), self._places[path])

        known = {entry.path for entry in base.shards}
        with Transaction(root, base) as change:
            new = rewriting.replace(root, base, change.folder, wanted(), progress=progress)

            def build(latest: Manifest) -> Manifest:
                new.check(latest)  # or rows that a compaction moved would seem another writer's
                self._refuse_rivals([e for e in latest.shards if e.path not in known])
                known.update(entry.path for entry in latest.shards)
                return new.following(latest, operation="rename", message=message)

            return change.commit(new.files, build)

    def _refuse_rivals(self, others: Sequence[ShardEntry]) -> None:
        """Refuse rows that other writers have brought since, where their keys are the new ones."""
        for entry in others:
            own = self._hashes.get(entry.partition)
            if own is None:
                continue
            width = self._widths[entry.partition]
            if entry.width != width:
                raise ConflictError(
                    f"another writer has just stored vectors of width {entry.width} for "
                    f"{key_hashes.describe_partition(entry.partition)}, these rows have width "
                    f"{width}; nothing changed"
                )
            table = shard_columns.read_columns(self._snapshot.root, entry, list(schema.key_names()))
            rows = np.flatnonzero(np.isin(key_hashes.hash_table(table), own))
            if len(rows):
                raise ConflictError(
                    "another writer has just stored this row: "
                    f"{_described(table, int(rows[0]))}; nothing changed, run the command again"
                )


def check_column(name: str) -> None:
    """Refuse a column that cannot be set.

    Raises:
        UsageError: there is no such column, or its values are not for setting.
    """
    if name in COMPUTED:
        raise UsageError(f"{name} cannot be set: {COMPUTED[name]}")
    if name not in schema.metadata_names():
        settable = [each for each in schema.metadata_names() if each not in COMPUTED]
        raise UsageError(f"there is no column {name!r} to set; there are {', '.join(settable)}")


@dataclass(frozen=True, slots=True)
class _Changed:
    """One shard's share of the change."""

    entry: ShardEntry
    rows: np.ndarray
    """Numbers within the shard."""
    cells: Mapping[str, Sequence[Any]]

    def applied(self, table: pa.Table) -> pa.Table:
        """Return a table of all rows of the shard with the new values in it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        mask = np.zeros(table.num_rows, bool)
        mask[self.rows] = True
        for name, values in self.cells.items():
            if name in table.column_names:
                at = table.column_names.index(name)
                field = table.schema.field(at)
                column = pc.replace_with_mask(
                    table[name].combine_chunks(), pa.array(mask), pa.array(values, field.type)
                )
                table = table.set_column(at, field, column)
        return table


def _destinations(table: pa.Table) -> list[Destination]:
    """Return the new shards that rows go to, in the order of their first rows."""
    codes = np.zeros(table.num_rows, np.int64)
    words = []
    for name in _PARTITION:
        column = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
        words.append(column.dictionary.to_pylist())
        codes = codes * len(words[-1]) + column.indices.to_numpy(zero_copy_only=False)
    found, first = np.unique(codes, return_index=True)
    places = []
    for code in found[np.argsort(first)].tolist():
        site, layer = divmod(code, len(words[2]))
        model, site = divmod(site, len(words[1]))
        partition = words[0][model], words[1][site], words[2][layer]
        places.append(Destination(partition, np.flatnonzero(codes == code)))
    return places


def _check_keys(tables: list[pa.Table]) -> None:
    """Refuse keys that come twice.

    Raises:
        ConflictError: names the first of them.
    """
    if not tables:
        return
    hashes = np.concatenate([key_hashes.hash_table(table) for table in tables])
    unique, counts = np.unique(hashes, return_counts=True)
    suspects = unique[counts > 1]
    if not len(suspects):
        return
    seen: set[tuple[Any, ...]] = set()
    twice: list[str] = []
    first = 0
    for table in tables:
        own = hashes[first : first + table.num_rows]
        first += table.num_rows
        for row in np.flatnonzero(np.isin(own, suspects)).tolist():
            key = tuple(table[name][row].as_py() for name in table.column_names)
            if key in seen:
                twice.append(key_hashes.describe(key))
            seen.add(key)
    if twice:
        more = f"; and {len(twice) - _NAMED:,} more" if len(twice) > _NAMED else ""
        raise ConflictError(
            f"these keys would come twice: {'; '.join(twice[:_NAMED])}{more}; nothing changed: "
            "drop one of the two, or choose other names",
            twice[0],
        )


def _described(table: pa.Table, row: int) -> str:
    return key_hashes.describe(tuple(table[name][row].as_py() for name in schema.key_names()))
